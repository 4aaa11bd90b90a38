// What the pages share that are drawn from data: numbers, tracks, label lists, chips that pick by label, the dialog.
const data = JSON.parse(find("data").textContent);
document.title = find("title").textContent = data.title;

const digits = value => value === null ? "–" : value.toFixed(3);
const percent = value => `${100 * Math.min(1, Math.max(0, value))}%`;
const cell = text => make("td", {className: "number", textContent: text});
const picture = image => make("img", {className: "image", src: image.src, alt: image.name});
const named = labels => labels.map(label => data.labels[label]).join(", ") || "no label";

function placed(className, start, end) {
  const mark = make("i", {className});
  mark.style.left = percent(start);
  if (end !== undefined) mark.style.width = `calc(${percent(end)} - ${percent(start)})`;
  return mark;
}

function jaccardBar(query, found) {
  const shared = found.labels.filter(label => query.labels.includes(label)).length;
  const fill = make("b");
  fill.style.width = percent(shared / Math.max(1, found.labels.length + query.labels.length - shared));
  return make("div", {className: "jaccard"}, fill);
}

const ownLabels = image =>
  make("ul", {className: "labels"}, ...image.labels.map(label => make("li", {textContent: data.labels[label]})));

function comparedLabels(query, image) {
  const has = label => image.labels.includes(label), asked = label => query.labels.includes(label);
  const rows = [
    ...image.labels.filter(asked).map(label => ["shared", "✓", label]),
    ...image.labels.filter(label => !asked(label)).map(label => ["extra", "+", label]),
    ...query.labels.filter(label => !has(label)).map(label => ["missing", "–", label])];
  const said = {shared: "shared", extra: "not in the query", missing: "missing"};
  return make("ul", {className: "labels"}, ...rows.map(([kind, mark, label]) =>
    make("li", {className: kind, textContent: `${mark} ${data.labels[label]}`, title: said[kind]})));
}

// Which queries are to be seen: those with all chosen labels, and a part of a name.
const chosen = new Set();
const wanted = image => [...chosen].every(label => image.labels.includes(label)) &&
  image.name.toLowerCase().includes(find("name").value.toLowerCase());

const breakable = name => name.split(/(?<=_)/).flatMap((part, number) => number ? [make("wbr"), part] : [part]);

function makeChips(redraw) {
  const press = () => {
    for (const chip of find("chips").children) chip.ariaPressed = String(chosen.has(Number(chip.dataset.label)));
    redraw();
  };
  find("chips").append(...data.labels.map((name, label) => {
    const chip = make("button", {type: "button", textContent: name, ariaPressed: "false"});
    chip.dataset.label = label;
    chip.onclick = () => { chosen.has(label) ? chosen.delete(label) : chosen.add(label); press(); };
    return chip;
  }));
  find("clear").onclick = () => { chosen.clear(); press(); };
}

find("close").onclick = () => find("dialog").close();
find("dialog").onclick = event => { if (event.target === find("dialog")) find("dialog").close(); };
