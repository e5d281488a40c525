"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const rows = data.values.length, columns = data.tokens.length;
const sum = data.tokens.map((_, i) => data.values.reduce((total, row) => total + row[i], 0));
const MOST = 12;
let chosen = null; // the row that was clicked; null is the whole answer

const visible = (text) => text.replace(/\n/g, "\u21b5\n").replace(/\t/g, "\u21e5\t");
const colour = (share) => `rgba(var(${share > 0 ? "--for" : "--against"}), ${Math.min(1, 0.75 * Math.abs(share))})`;
const number = (value) => Number(value.toPrecision(3)).toString();

function part(i, tag) {
  const element = document.createElement(tag);
  element.textContent = visible(data.tokens[i]);
  element.className = data.kinds[i];
  return element;
}

const parts = data.tokens.map((_, i) => part(i, "span"));
const buttons = data.generated.map((text, row) => {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  if (data.aligned) button.append(parts[data.prompt + row]);
  else button.textContent = visible(text);
  button.addEventListener("pointerenter", () => show(row));
  button.addEventListener("pointerleave", () => show(chosen));
  button.addEventListener("focus", () => show(row));
  button.addEventListener("blur", () => show(chosen));
  button.addEventListener("click", () => choose(row === chosen ? null : row));
  return button;
});
byId("prompt").append(...parts.slice(0, data.prompt));
byId("answer").append(...buttons);
if (!data.aligned) byId("prompt").append(...parts.slice(data.prompt));

function choose(row) {
  chosen = row;
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === row)));
  show(row);
}

function show(row) {
  const values = row === null ? sum : data.values[row];
  const scale = Math.max(...values.map(Math.abs)) || 1;
  parts.forEach((element, i) => {
    element.style.background = values[i] ? colour(values[i] / scale) : "";
    element.title = number(values[i]);
  });
  const score = row === null ? data.scores.reduce((a, b) => a + b, 0) : data.scores[row];
  byId("chosen").textContent = `${row === null ? "whole answer" : JSON.stringify(data.generated[row])}: score ${number(score)}`;
  const order = values.map((_, i) => i).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, MOST);
  byId("most").replaceChildren(...order.filter((i) => values[i]).map((i) => {
    const line = document.createElement("tr");
    const [name, value, bar] = ["td", "td", "td"].map((tag) => document.createElement(tag));
    name.textContent = visible(data.tokens[i]).trim() || "\u2423";
    value.textContent = number(values[i]);
    const strip = document.createElement("span");
    strip.className = "strip";
    strip.style.width = `${(8 * Math.abs(values[i])) / scale}rem`;
    strip.style.background = colour(values[i] > 0 ? 1 : -1);
    bar.append(strip);
    line.append(name, value, bar);
    return line;
  }));
}

const canvas = byId("matrix");
const cell = Math.max(3, Math.min(16, Math.floor(1100 / columns)));
canvas.width = columns * cell;
canvas.height = rows * cell;
function draw() {
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const largest = Math.max(...data.values.flat().map(Math.abs)) || 1;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  data.values.forEach((row, y) => row.forEach((value, x) => {
    if (!value) return;
    const rgb = style.getPropertyValue(value > 0 ? "--for" : "--against");
    pen.fillStyle = `rgba(${rgb}, ${Math.abs(value) / largest})`;
    pen.fillRect(x * cell, y * cell, cell, cell);
  }));
  pen.fillStyle = style.color || "#888";
  pen.fillRect(data.prompt * cell, 0, 1, canvas.height);
}
const place = (event) => [Math.floor(event.offsetX / cell), Math.floor(event.offsetY / cell)];
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = place(event);
  if (x >= 0 && x < columns && y >= 0 && y < rows) byId("cell").textContent = `${JSON.stringify(data.generated[y])} from ${JSON.stringify(data.tokens[x])}: ${number(data.values[y][x])}`;
});
canvas.addEventListener("click", (event) => choose(Math.min(rows - 1, Math.max(0, place(event)[1]))));
byId("whole").addEventListener("click", () => choose(null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
show(null);
