"""A generator's pictures are made before they are shown: as many as any part of a profile asks for, and once."""

import yaml
from seeing import CLASSES, generator

from rosetta.models.load import ROOT
from rosetta.studies import pictures
from rosetta.studies.matches import Study


def test_what_is_made_before_is_found_by_those_who_show_it(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["models"]["onestep-32x2"] |= {"source": "nobody/maker", "classes": CLASSES}
    content["images"]["count"] = 40  # Figure 34 asks for 48
    path, opened = tmp_path / "seen.yaml", []
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    monkeypatch.setattr(Study, "reader", lambda study, name: opened.append(name) or generator())
    pictures.main([str(path), str(tmp_path), "onestep-32x2"])
    found = Study(str(path), tmp_path).made_by("onestep-32x2", 40)
    assert opened == ["onestep-32x2"] and len(found) == 40
    assert [picture.label for picture in found] == [i % CLASSES for i in range(40)]
    assert len(Study(str(path), tmp_path).made_by("onestep-32x2", 48)) == 48 and len(opened) == 1
