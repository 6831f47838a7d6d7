// The page of a service: send files, show the answer. Everything comes from this service; text is set as text.
"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const FEW = 8; // scores that are shown at once
const words = (name) => name.replace(/^p_/, "").replaceAll("_", " ");
const number = (value) => (value === null || value === undefined ? "no answer" : Number(value).toFixed(3));

let asked = 0; // an answer that comes late must not replace a later one's

async function ask(body) {
  const mine = ++asked;
  $("answer").hidden = true;
  $("state").className = "";
  $("state").textContent = "Scoring …";
  try {
    const response = await fetch("/predict?pictures=true", { method: "POST", body });
    const content = await response.json();
    if (mine !== asked) return;
    if (!response.ok) {
      refuse(content.reason || "The service could not answer.", content.remedy || "");
      return;
    }
    $("state").textContent = "";
    show(content);
  } catch (failure) {
    if (mine === asked) refuse("The service cannot be reached.", "Is it still running? Try again.");
  }
}

function refuse(reason, remedy) {
  $("state").className = "failure";
  $("state").replaceChildren(make("strong", "", reason), " ", remedy);
}

function show(content) {
  const rows = content.predictions;
  const said = [...document.querySelectorAll("header .warning")].map((note) => note.textContent);
  $("warnings").replaceChildren(...content.warnings.filter((text) => !said.includes(text)).map((text) => make("li", "", text)));
  showPicture(content.pictures);
  const parts = rows.map((row, i) => showRow(row, i, content));
  $("scores").replaceChildren(...parts);
  $("answer").hidden = false;
  $("answer").focus({ preventScroll: true });
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("answer").scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

function showPicture(pictures) {
  const layers = pictures.map((picture) => {
    const image = make("img", picture.overlay ? "overlay" : "");
    image.src = `data:image/png;base64,${picture.png}`;
    image.alt = picture.title;
    return image;
  });
  const overlay = pictures.find((picture) => picture.overlay);
  $("layers").replaceChildren(...layers);
  $("picture").hidden = layers.length === 0;
  $("heat").hidden = !overlay;
  $("caption").textContent = pictures.map((picture) => picture.title).join(". Over it: ");
  setStrength();
}

function setStrength() {
  for (const image of document.querySelectorAll(".overlay")) image.style.opacity = $("strength").value / 100;
}

function showRow(row, i, content) {
  const part = make("div");
  part.append(make("h3", "", row.file || row.study || "Answer"));
  if (row.reason) {
    part.append(make("p", "failure", row.reason));
    return part;
  }
  const names = content.columns.filter((name) => name.startsWith("p_") && row[name] !== undefined);
  const points = (name) => content.operating_points.filter((point) => point.score === name);
  const first = names.filter((name) => points(name).length);
  const rest = names.filter((name) => !points(name).length).sort((a, b) => (row[b] ?? -1) - (row[a] ?? -1));
  const score = (name) => showScore(name, row[name], points(name), i);
  const order = [...first, ...rest];
  part.append(...order.slice(0, FEW).map(score));
  if (order.length > FEW) {
    const more = make("details");
    more.append(make("summary", "", `${order.length - FEW} more scores`), ...order.slice(FEW).map(score));
    part.append(more);
  }
  const decided = new Set(content.operating_points.map((point) => `${point.task}@${point.name}`));
  const facts = content.columns.filter(
    (name) => !names.includes(name) && !decided.has(name) && !["file", "study", "reason", "warnings"].includes(name)
      && row[name] !== null && row[name] !== undefined);
  if (facts.length) {
    const table = make("table");
    for (const name of facts) {
      const line = make("tr");
      const head = make("th", "", words(name));
      head.scope = "row";
      line.append(head, make("td", "", String(row[name])));
      table.append(line);
    }
    part.append(table);
  }
  return part;
}

function showScore(name, value, points, i) {
  const score = make("div", "score");
  score.append(make("span", "name", words(name)), make("span", "value", number(value)));
  if (value === null || value === undefined) return score;
  const bar = make("div", "bar");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${words(name)}: ${number(value)}`);
  const filled = make("i");
  filled.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  bar.append(filled);
  const list = make("ul", "points");
  for (const point of points) {
    if (point.threshold === null) continue;
    const mark = make("b");
    mark.style.left = `${100 * Math.min(1, Math.max(0, point.threshold))}%`;
    bar.append(mark);
    const yes = point.decisions[i] === 1;
    const said = `${yes ? "positive" : "negative"} at ${words(point.name)}`;
    list.append(make("li", yes ? "yes" : "", `${said} (threshold ${number(point.threshold)}, chosen on ${point.chosen_on})`));
  }
  score.append(bar, list);
  return score;
}

function send(files) {
  if (!files.length) return;
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  ask(body);
}

$("file").addEventListener("change", () => { send($("file").files); $("file").value = ""; });
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("path") && $("path").value) {
    const body = new FormData();
    body.append("path", $("path").value);
    ask(body);
  }
});
$("strength").addEventListener("input", setStrength);
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  send(event.dataTransfer.files);
});
