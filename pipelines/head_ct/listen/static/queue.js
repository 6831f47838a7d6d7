// The worklist, asked for again and again. Rows are kept while their study is there, so that focus stays where it is.
"use strict";

const EVERY = 1000; // ms
const byId = (id) => document.getElementById(id);
const lists = { waiting: new Map(), read: new Map() };

function element(kind, text, style) {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  if (style) made.className = style;
  return made;
}

function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

function putAll(place, made) {
  const markup = (elements) => [...elements].map((one) => one.outerHTML).join("");
  if (markup(place.children) !== markup(made)) place.replaceChildren(...made);
}

function duration(exact) {
  if (exact === null) return "–";
  const seconds = Math.round(exact); // first, or 119.6 would be 1 min 60 s
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function number(value, digits) {
  return value === null ? "–" : value.toFixed(digits);
}

function pValue(value) {
  if (value === null) return "–";
  return value < 0.001 ? "< 0.001" : value.toFixed(3);
}

async function answer(study, critical) {
  try {
    const reply = await fetch(`/studies/${study}/read`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ critical }),
    });
    if (!reply.ok) throw new Error((await reply.json()).reason);
    await update();
    put(byId("state"), `${study} is marked as read.`);
  } catch (failure) {
    put(byId("state"), `${study} could not be marked: ${failure.message}`);
  }
}

function button(text, study, critical) {
  const made = element("button", text);
  made.type = "button";
  made.setAttribute("aria-label", `${text}: ${study}`);
  made.addEventListener("click", () => answer(study, critical));
  return made;
}

function newRow(study) {
  const row = element("li");
  const facts = element("div", "", "facts");
  for (const name of ["lead", "about", "said"]) facts.append(element("p", "", name));
  const picture = element("img");
  picture.hidden = true;
  const answers = element("div", "", "answers");
  answers.append(button("Read: critical", study, true), button("Read: not critical", study, false));
  row.append(element("span", "", "place"), facts, picture, answers);
  return row;
}

function score(s) {
  if (!s.scored) return "not scored yet";
  return s.score === null ? "no score" : `score ${s.score.toFixed(3)}`;
}

function fill(row, s) {
  const waits = s.critical === null;
  row.className = s.alarm ? "alarm" : "";
  put(row.querySelector(".place"), waits ? `${s.place}.` : "");
  const lead = [score(s), waits ? `waits ${duration(s.waits)}` : `waited ${duration(s.waits)}`];
  if (!waits) lead.unshift(s.critical ? "critical" : "not critical");
  put(row.querySelector(".lead"), lead.join(", "));
  const about = [s.study, waits ? `number ${s.arrival} by arrival` : "", s.files === 1 ? "1 file" : `${s.files} files`, s.series,
    s.to_score === null || s.score === null ? "" : `scored ${s.to_score.toFixed(1)} s after its last slice`];
  put(row.querySelector(".about"), about.filter(Boolean).join("; "));
  const said = [s.reason, s.warnings, s.left_out && `not used: ${s.left_out}`];
  if (s.late) said.push("further slices have come; it will be scored again");
  if (s.after_removal) said.push("slices came after its files were removed; they are not scored");
  if (s.late_after_reading) said.push("slices came after it was read");
  if (s.unsent) said.push(`its result has not been sent yet${s.failure ? ` (${s.failure})` : ""}`);
  put(row.querySelector(".said"), said.filter(Boolean).join("; "));
  const [yes, no] = row.querySelectorAll("button"); // of a study that is read: what would correct the finding
  yes.hidden = s.critical === true;
  no.hidden = s.critical === false;
  const picture = row.querySelector("img");
  const source = s.picture ? `/pictures/${s.study}.png?${s.revision}` : "";
  if (source && picture.getAttribute("src") !== source) {
    picture.src = source;
    picture.alt = `Key slices of ${s.study}`;
  }
  picture.hidden = !source;
}

function show(name, studies) {
  const rows = lists[name];
  const place = byId(name);
  const named = new Set(studies.map((s) => s.study));
  for (const [study, row] of rows) {
    if (!named.has(study)) {
      row.remove();
      rows.delete(study);
    }
  }
  const focus = document.activeElement;
  studies.forEach((s, k) => {
    if (!rows.has(s.study)) rows.set(s.study, newRow(s.study));
    const row = rows.get(s.study);
    fill(row, s);
    if (place.children[k] !== row) place.insertBefore(row, place.children[k] || null);
  });
  if (focus && focus !== document.activeElement && focus.isConnected) focus.focus();
}

function showFigures(f) {
  const lines = [
    ["studies", String(f.critical), String(f.others), ""],
    ["mean waiting", duration(f.critical_wait), duration(f.others_wait), pValue(f.p_wait)],
    ["mean place as read", number(f.critical_place, 1), number(f.others_place, 1), pValue(f.p_place)],
    ["mean place by arrival", number(f.critical_arrival, 1), number(f.others_arrival, 1), pValue(f.p_arrival)],
  ];
  const rows = lines.map(([name, ...cells]) => {
    const row = element("tr");
    const head = element("th", name);
    head.scope = "row";
    row.append(head, ...cells.map((cell) => element("td", cell)));
    return row;
  });
  putAll(byId("figures"), rows);
}

let asked = 0;
let shown = 0;

async function update() {
  const turn = ++asked;
  const reply = await fetch("/queue");
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const now = await reply.json();
  if (turn < shown) return; // an answer that comes late must not replace a later one's
  shown = turn;
  putAll(byId("warnings"), now.warnings.map((text) => element("li", text)));
  byId("none").hidden = now.waiting.length > 0;
  show("waiting", now.waiting);
  show("read", now.read);
  showFigures(now.figures);
}

let lost = false;

async function repeat() {
  try {
    await update();
    if (lost) put(byId("state"), "");
    lost = false;
  } catch (failure) {
    lost = true;
    put(byId("state"), "The node does not answer: what is shown is old.");
  }
  setTimeout(repeat, EVERY);
}

repeat();
