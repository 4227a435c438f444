"""A trunk of EVA-02-CLIP-E's kind, known to timm by its name: open_clip's files name a trunk and hold none of its sizes."""

import timm
from timm.models.eva import Eva

NAME, PATCH = "eva_in_miniature", 8
#: Layers, width, neurons of a layer and cells on a side.
SIZES = (5, 28, 240, 4)


@timm.models.register_model
def eva_in_miniature(num_classes, global_pool, **_settings):
    """EVA-02-CLIP-E's trunk, smaller: a norm after each part, GELU without a gate, no bias of keys."""
    layers, width, neurons, grid = SIZES
    return Eva(
        img_size=grid * PATCH, patch_size=PATCH, embed_dim=width, depth=layers, num_heads=1, mlp_ratio=neurons / width,
        use_post_norm=True, num_classes=num_classes, global_pool=global_pool,
    )  # fmt: skip
