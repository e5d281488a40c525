// Elements from plain values. Text is always text: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, values = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, values);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function s(tag, values = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function fill(element, values) {
  for (const [key, value] of Object.entries(values)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
    else if (key === "class") element.className = value;
    else if (key === "data") Object.assign(element.dataset, value);
    else if (typeof value === "boolean") element.toggleAttribute(key, value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
}

const SAID = 8000; // ms that a sentence stays

export function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { status.textContent = ""; }, SAID);
}

export function option(value, text, selected = false) {
  return h("option", { value, selected }, text);
}

export function field(label, control, hint = "") {
  const id = `f${field.count = (field.count || 0) + 1}`;
  control.id = id;
  const parts = [h("label", { for: id }, label), control];
  if (hint) {
    control.setAttribute("aria-describedby", `${id}h`);
    parts.push(h("small", { id: `${id}h` }, hint));
  }
  return h("div", { class: "field" }, ...parts);
}

export const percent = (share) => share === null || share === undefined ? "" : `${(100 * share).toFixed(1)} %`;

// The colours of a series' bands, as a filter of grey pictures, as in a report.
export function colourFilter([r, g, b]) {
  const table = s("feComponentTransfer", {},
    s("feFuncR", { type: "table", tableValues: r }), s("feFuncG", { type: "table", tableValues: g }), s("feFuncB", { type: "table", tableValues: b }));
  const filter = s("filter", { id: "signed", "color-interpolation-filters": "sRGB", x: 0, y: 0, width: 1, height: 1 }, table);
  document.body.append(s("svg", { class: "colouring", "aria-hidden": "true" }, filter));
}
