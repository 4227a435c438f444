"use strict";
const $ = (id) => document.getElementById(id);
const { digits: DIGITS, neurons, pictures } = JSON.parse($("data").textContent); // pictures: only where neurons fire on some
const HOTTEST = DIGITS.length - 1;
const START = { q: "", min: "0", layer: "", category: "", label: "", sort: "correlation", order: "down", neuron: "" };
const FILTERS = ["q", "min", "layer", "category", "label"];
const CONTROLS = [...FILTERS, "sort", "order"];
const narrow = matchMedia("(max-width: 699px)");
const state = { ...START }; // what the address holds
let shown = neurons;

/* Every text becomes a text node: `append` takes strings, and there is no HTML in this script. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}
const nameOf = (member) => `L${member.layer}/U${member.unit}`;
const fixed = (number, digits) => (number === null ? "–" : number.toFixed(digits).replace("-", "−"));
/* Control characters as their pictures, one for one. */
const visible = (text) => text.replace(/[\0-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/\x7f/g, "␡");
const visibleToken = (token) => visible(token.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥"));

if (pictures) {
  $("searched").textContent = "Search name, description";
  $("kind-of").textContent = "Class of most images";
}

const subsets = new Set(neurons.flatMap((neuron) => neuron.contexts.map((context) => context.subset)));
for (const neuron of neurons) {
  const [anchor, ...others] = neuron.members;
  const start = neuron.label.split(": ")[0];
  Object.assign(neuron, {
    name: nameOf(anchor),
    id: `${anchor.model}/${nameOf(anchor)}`,
    layer: anchor.layer,
    depth: anchor.depth,
    kurtosis: anchor.kurtosis,
    correlation: others.reduce((best, { correlation: c }) => (c !== null && (best === null || c > best) ? c : best), null),
    begins: subsets.has(start) ? start : "",
    names: neuron.members.map((member) => nameOf(member).toLowerCase()),
    words: [neuron.label, ...neuron.members.flatMap((member) => [nameOf(member), member.description, ...member.promotes])].join("\n").toLowerCase(),
  });
}
const severalAnchors = new Set(neurons.map((neuron) => neuron.members[0].model)).size > 1;
const hasKurtosis = neurons.some((neuron) => neuron.members.some((member) => member.kurtosis !== null));
const NO_LABEL = pictures ? "not described" : "no label";
const allNames = new Set(neurons.flatMap((neuron) => neuron.names));

/* ---- Filter and sort ---- */

/* "l8/u859" is that neuron of any model, "l8" its layer; while there is no such neuron, "l8/u8" begins its name. */
function found(neuron, term) {
  if (allNames.has(term)) return neuron.names.includes(term);
  return neuron.words.includes(/^l\d+$/.test(term) ? term + "/" : term);
}

function matching() {
  const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const least = Number(state.min);
  return neurons.filter((neuron) =>
    (!least || (neuron.correlation !== null && neuron.correlation >= least)) &&
    (state.layer === "" || neuron.layer === Number(state.layer)) &&
    (!state.category || neuron.category === state.category) &&
    (!state.label || neuron.begins === state.label) &&
    terms.every((term) => found(neuron, term)));
}

function byPlace(a, b) {
  return a.layer - b.layer || a.members[0].unit - b.members[0].unit;
}

/* What has no value comes last in either order; what is equal stands by layer and unit. */
function sorted(some) {
  const sign = state.order === "up" ? 1 : -1;
  if (state.sort === "neuron") return some.sort((a, b) => sign * byPlace(a, b));
  const value = (neuron) => neuron[state.sort];
  return some.sort((a, b) =>
    (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b)) || byPlace(a, b));
}

/* ---- The list: only the rows in sight are in the page ---- */

const rowHeight = () => 4.9 * parseFloat(getComputedStyle(document.documentElement).fontSize);

function drawRows() {
  const list = $("list"), height = rowHeight();
  const first = Math.max(0, Math.floor(list.scrollTop / height) - 5);
  const last = Math.ceil((list.scrollTop + list.clientHeight) / height) + 5;
  const chosen = current();
  $("rows").replaceChildren(...shown.slice(first, last).map((neuron, i) => {
    const row = make("div", "row",
      make("span", "mono", neuron.name),
      make("span", "muted number", "correlation ", make("b", "mono", fixed(neuron.correlation, 2))),
      make("span", "label", neuron.label || NO_LABEL),
      make("span", "muted", severalAnchors ? `${neuron.category} · ${neuron.members[0].model}` : neuron.category),
      make("span", "muted number", hasKurtosis ? `kurtosis ${fixed(neuron.kurtosis, 1)}` : neuron.members.slice(1).map((member) => `${member.model} ${nameOf(member)}`).join(", ")));
    row.id = `row-${first + i}`;
    row.dataset.neuron = neuron.id;
    row.style.top = `${(first + i) * height}px`;
    row.title = neuron.label;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", neuron === chosen);
    row.setAttribute("aria-setsize", shown.length);
    row.setAttribute("aria-posinset", first + i + 1);
    if (neuron === chosen) list.setAttribute("aria-activedescendant", row.id);
    return row;
  }));
  if (!list.querySelector("[aria-selected=true]")) list.removeAttribute("aria-activedescendant");
}

function scrollToCurrent() {
  const list = $("list"), at = shown.indexOf(current()), height = rowHeight();
  if (at < 0) return;
  list.scrollTop = Math.min(at * height, Math.max(list.scrollTop, (at + 1) * height - list.clientHeight));
}

/* ---- The neuron ---- */

/* The one the address names; without a name the first of the list; undefined if there is none. A bare L8/U859 will do. */
function current() {
  if (!state.neuron) return shown[0];
  return neurons.find((neuron) => neuron.id === state.neuron) ?? neurons.find((neuron) => neuron.name === state.neuron);
}

/* ---- What it fires on: texts ---- */

/* One model's heat on a text: its runs, cut where the peak begins and ends too. */
function heated(text, runs, peak, member) {
  const characters = Array.from(text); // code points, as Python counts them
  const block = make("div", "text");
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const level = DIGITS.indexOf(runs[i]), end = at + DIGITS.indexOf(runs[i + 1]) + 1;
    const cuts = [at, ...peak.filter((cut) => at < cut && cut < end), end];
    for (let j = 0; j + 1 < cuts.length; j++) {
      const piece = visible(characters.slice(cuts[j], cuts[j + 1]).join(""));
      const atPeak = peak[0] <= cuts[j] && cuts[j] < peak[1];
      if (!level && !atPeak) {
        block.append(piece);
        continue;
      }
      const span = make("span", `heat-${Math.ceil((8 * level) / HOTTEST)}${atPeak ? " peak" : ""}`, piece);
      const share = level / HOTTEST;
      span.title = `${member.model} ${nameOf(member)}: activation ${Number((share * member.peak).toPrecision(3))}, ${Math.round(100 * share)}% of its peak`;
      block.append(span);
    }
    at = end;
  }
  return block;
}

function fact(name, value, ...more) {
  return make("div", "", make("dt", "", name), make("dd", "", value, ...more));
}

function card(member, isAnchor) {
  const mark = make("i", ""), track = make("div", "track", mark);
  mark.style.left = `calc(${member.depth ?? 0} * (100% - 9px))`;
  const facts = [fact("correlation", isAnchor ? "anchor" : fixed(member.correlation, 3))];
  if (hasKurtosis) facts.push(fact("kurtosis", fixed(member.kurtosis, 2)));
  facts.push(fact("depth", fixed(member.depth, 2), ...(member.depth === null ? [] : [track])));
  const more = [];
  if (member.description) more.push(make("p", "description", member.description));
  if (!pictures) more.push(make("p", "promotes", "promotes"),
    make("ul", "tokens", ...(member.promotes.length ? member.promotes.map((token) => make("li", "", visibleToken(token))) : ["–"])));
  return make("article", "card",
    make("h3", "", make("span", "", member.model), make("span", "mono", nameOf(member))),
    make("dl", "", ...facts), ...more);
}

function legend() {
  return make("p", "legend", "0",
    make("span", "ramp", ...Array.from({ length: 9 }, (_, i) => make("i", `heat-${i}`))),
    "the model’s own peak over these contexts · outlined: where the anchor peaks");
}

function contextOf(context, number, members) {
  return make("section", "context",
    make("h4", "", make("span", "tag", context.subset), `context ${number + 1} · ${context.category}`),
    make("div", "side-by-side", ...members.map((member, i) =>
      make("figure", "",
        make("figcaption", "", make("span", "", member.model), make("span", "mono", nameOf(member))),
        context.heat[i] === null ? make("p", "text muted", "not read on this text") : heated(context.text, context.heat[i], context.peak, member)))));
}

/* ---- What it fires on: pictures. They are made when a neuron is opened: the file holds them as text until then. ---- */

/* From weak to strong, over a picture in dark grey; by lightness too, for the colour-blind. */
const GLOW = [[93, 47, 24], [122, 60, 20], [150, 77, 9], [191, 111, 22], [215, 134, 30], [240, 167, 50], [254, 208, 113], [255, 232, 176]];

/* A map as a canvas of one pixel a cell, which the style enlarges; what is silent stays clear. */
function glowing(map, columns) {
  const canvas = make("canvas", ""), rows = map.length / columns;
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  Array.from(map, (digit, cell) => {
    const share = DIGITS.indexOf(digit) / HOTTEST;
    if (share) image.data.set([...GLOW[Math.ceil(8 * share) - 1], 70 + 110 * share], 4 * cell);
  });
  context.putImageData(image, 0, 0);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

/* Where a map is strongest, in words: a ninth of the picture. */
function placeOf(map, columns) {
  const levels = Array.from(map, (digit) => DIGITS.indexOf(digit)), level = Math.max(...levels), cell = levels.indexOf(level);
  if (!level) return "is silent";
  const third = (at, of, names) => names[Math.floor((3 * (at + 0.5)) / of)];
  const row = third(Math.floor(cell / columns), map.length / columns, ["top", "", "bottom"]);
  const column = third(cell % columns, columns, ["left", "", "right"]);
  const place = [row, column].filter(Boolean).join(" ");
  return `fires ${place ? `at ${place}` : "in the middle"}, ${Math.round((100 * level) / HOTTEST)}% of its peak`;
}

function panel(sight, alt, ...over) {
  const image = make("img", "");
  image.src = `data:image/webp;base64,${pictures[sight.picture]}`;
  image.alt = image.title = alt;
  return make("span", over.length ? "panel over" : "panel", image, ...over);
}

/* A picture, and the same under each member's map. */
function sightOf(sight, at, of, members) {
  const which = `image ${sight.number}, strongest ${sight.ranks[at]} of ${of}`;
  const known = sight.caption && `: ${sight.caption}`;
  return make("figure", "sight",
    make("div", "panels", panel(sight, `${which} for ${members[at].model} ${nameOf(members[at])}${known}`),
      ...members.map((member, i) => panel(sight,
        `${which}: ${member.model} ${nameOf(member)} ${placeOf(sight.maps[i], sight.columns[i])}${known}`, glowing(sight.maps[i], sight.columns[i])))),
    make("figcaption", "", `${sight.ranks[at]}. `, make("span", "", `image ${sight.number}${known}`)));
}

/* The strongest pictures of one member. */
function sightsOf(neuron, at) {
  const own = neuron.contexts.filter((sight) => sight.ranks[at] !== null).sort((a, b) => a.ranks[at] - b.ranks[at]);
  const member = neuron.members[at];
  return make("section", "context",
    make("h4", "", "strongest for ", make("b", "", member.model), " ", make("b", "mono", nameOf(member))),
    own.length ? make("div", "sights", ...own.map((sight) => sightOf(sight, at, own.length, neuron.members))) : make("p", "muted", "no images were kept"));
}

function glowLegend(members) {
  const ramp = make("span", "ramp glow", glowing(Array.from({ length: 9 }, (_, i) => DIGITS[Math.floor((i * HOTTEST) / 8)]).join(""), 9));
  return make("p", "legend", "0", ramp, `each model’s own peak over these images · from the left: the image, ${members.map((member) => member.model).join(", ")}`);
}

/* ---- The neuron: all of it ---- */

function firesOn(neuron) {
  if (!neuron.contexts.length) return [make("p", "muted", pictures ? "no images were kept" : "no contexts were kept")];
  if (pictures) return [glowLegend(neuron.members), ...neuron.members.map((_, at) => sightsOf(neuron, at))];
  return [legend(), ...neuron.contexts.map((context, i) => contextOf(context, i, neuron.members))];
}

function drawDetail() {
  const neuron = current();
  const toList = make("a", "to-list", "↑ to the list");
  toList.href = "#";
  toList.onclick = (event) => {
    event.preventDefault();
    $("find").scrollIntoView();
    $("list").focus({ preventScroll: true });
  };
  $("detail").scrollTop = 0;
  if (!neuron) {
    $("detail").replaceChildren(toList, ...(state.neuron
      ? [make("h2", "", "No such neuron here"), make("p", "about", `The address asks for ${state.neuron}. This file has no Rosetta Neuron of that name; choose one from the list.`)]
      : [make("h2", "", "Nothing matches"), make("p", "about", "No neuron passes the search and the filters. “Clear filters”, or Escape, brings all of them back.")]));
    return;
  }
  const link = make("a", "", "link to this neuron");
  link.href = addressOf({ ...START, neuron: neuron.id });
  $("detail").replaceChildren(toList,
    make("h2", "mono", neuron.name, make("span", "model", neuron.members[0].model)),
    make("p", "about", make("span", "tag", neuron.category), neuron.label || NO_LABEL, link),
    make("div", "side-by-side", ...neuron.members.map((member, i) => card(member, i === 0))),
    make("h3", "section", "What it fires on"),
    ...firesOn(neuron));
}

/* ---- The view: from the state to the page ---- */

let drawn;
function show(to) {
  for (const key of CONTROLS) if ($(key).value !== state[key]) $(key).value = state[key];
  $("at-least").textContent = Number(state.min) ? `≥ ${Number(state.min).toFixed(2)}` : "any";
  $("clear").disabled = FILTERS.every((key) => state[key] === START[key]);
  shown = sorted(matching());
  const tally = `${shown.length.toLocaleString("en")} of ${neurons.length.toLocaleString("en")} neurons`;
  if ($("count").textContent !== tally) $("count").textContent = tally;
  $("rows").style.height = `${shown.length * rowHeight()}px`;
  if (to === "top") $("list").scrollTop = 0;
  if (to === "current") scrollToCurrent();
  drawRows();
  const asked = state.neuron || current()?.id || "";
  if (drawn !== asked) drawDetail();
  drawn = asked;
}

/* ---- The address: from the state to the hash and back ---- */

function addressOf(view) {
  const changed = Object.entries(view).filter(([key, value]) => value !== START[key]);
  return "#" + new URLSearchParams(changed).toString().replaceAll("%2F", "/");
}

/* Changes in a row by one control (a word typed, an arrow key held) are one step of the history, written once they
   pause: browsers limit how often an address may change. */
let waiting = null, lastControl = null;
function remember(control) {
  clearTimeout(waiting?.timer);
  waiting = { control, address: addressOf(state), timer: setTimeout(writeAddress, 150) };
}
function writeAddress() {
  if (!waiting) return;
  clearTimeout(waiting.timer);
  const { control, address } = waiting;
  waiting = null;
  if (address === (location.hash || "#")) return;
  history[control === lastControl ? "replaceState" : "pushState"](null, "", address);
  lastControl = control;
}
function change(control, changes, to) {
  if (waiting?.control !== control) writeAddress();
  Object.assign(state, changes);
  show(to);
  remember(control);
}

function readAddress() {
  clearTimeout(waiting?.timer);
  waiting = lastControl = null;
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const key in START) state[key] = asked.get(key) ?? START[key];
  const least = parseFloat(state.min);
  state.min = least >= 0 && least <= 1 ? String(least) : START.min;
  for (const key of CONTROLS) { // a control knows which values there are
    $(key).value = state[key];
    if ($(key).value !== state[key]) state[key] = $(key).value || START[key];
  }
  show("current");
}

/* ---- What the reader does ---- */

function step(to) {
  const neuron = shown[Math.max(0, Math.min(shown.length - 1, to))];
  if (neuron) change("keys", { neuron: neuron.id }, "current");
}

for (const key of CONTROLS) $(key).addEventListener("input", () => change(key, { [key]: $(key).value }, "top"));
const clear = () => change("clear", Object.fromEntries(FILTERS.map((key) => [key, START[key]])), "current");
$("clear").addEventListener("click", clear);
$("rows").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  change(`click on ${row.dataset.neuron}`, { neuron: row.dataset.neuron });
  if (narrow.matches) $("detail").scrollIntoView();
});
let frame;
$("list").addEventListener("scroll", () => {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(drawRows);
});
addEventListener("resize", drawRows);
addEventListener("hashchange", readAddress);
addEventListener("pagehide", writeAddress);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const on = event.target, typing = on === $("q"), inList = on === $("list") || on === document.body;
  const at = shown.indexOf(current()), page = Math.max(1, Math.floor($("list").clientHeight / 80));
  const actions = {};
  if (!typing) actions["/"] = () => ($("q").focus(), $("q").select());
  if (!on.matches("select")) actions.Escape = clear;
  if (!on.matches("select, input")) for (const [key, by] of [["n", 1], ["j", 1], ["p", -1], ["k", -1]]) actions[key] = () => step(at + by);
  if (inList || typing) Object.assign(actions, { ArrowDown: () => step(at + 1), ArrowUp: () => step(at - 1) });
  if (inList) Object.assign(actions, { Home: () => step(0), End: () => step(shown.length - 1), PageDown: () => step(at + page), PageUp: () => step(at - page) });
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
});

/* ---- Begin ---- */

function offer(id, values) {
  for (const value of [...new Set(values)]) $(id).append(new Option(value, value));
}
offer("layer", neurons.map((neuron) => neuron.layer).sort((a, b) => a - b));
offer("category", neurons.map((neuron) => neuron.category).filter(Boolean).sort());
offer("label", neurons.map((neuron) => neuron.begins).filter(Boolean).sort());
$("category").parentElement.hidden = $("category").length === 1;
$("label-filter").hidden = $("label").length === 1;
if (!hasKurtosis) $("sort").querySelector("[value=kurtosis]").remove();
readAddress();
if (state.neuron && narrow.matches) $("detail").scrollIntoView();
