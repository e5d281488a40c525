// A sample as people see it: pictures, tokens, curves, bars.

import { h, percent, s } from "./dom.js";

const CURVE = [600, 120];

export function verdict(card) {
  const sure = card.confidence === null ? "" : ` (${percent(card.confidence)})`;
  if (card.right === null) return card.predicted ? `predicted ${card.predicted}${sure}` : "";
  return `predicted ${card.predicted}${sure}, ${card.right ? "right" : `is ${card.label}`}`;
}

export function facts(card) {
  const line = h("p", { class: card.right === null ? "facts" : card.right ? "facts right" : "facts wrong" }, verdict(card));
  if (!card.after) return line;
  const { predicted, right, changed } = card.after;
  const text = changed ? `after: ${predicted}${right === null ? "" : right ? ", right" : ", wrong"}` : "after: the same";
  line.append(h("span", { class: `after ${changed ? "changed" : ""} ${right === null ? "" : right ? "right" : "wrong"}` }, text));
  return line;
}

// One map over its input. `opacity` is a CSS variable of the page.
export function tile(card, map) {
  const box = h("span", { class: "tile" });
  if (card.input) box.append(h("img", { class: "input", src: card.input, alt: "", decoding: "async", draggable: "false" }));
  if (map) {
    const alt = `${map.explainer}: ${map.words}`;
    box.append(h("img", { class: card.input ? "heat" : "heat alone", src: map.picture, alt, decoding: "async", draggable: "false" }));
  }
  return box;
}

function imageParts(card) {
  const tiles = card.input ? [h("figure", {}, tile(card, null), h("figcaption", {}, "input"))] : [];
  return [...tiles, ...card.maps.map((map) => h("figure", {}, tile(card, map), h("figcaption", {}, map.explainer)))];
}

export function tokens(map) {
  return h("p", { class: "tokens" }, ...map.tokens.flatMap((token) => [token.glued ? "" : " ",
    h("span", { class: `token ${token.sign}${token.glued ? " glued" : ""}`, style: { "--share": token.share } }, token.word)]));
}

export function curves(map) {
  const isNamed = map.channels.length > 1 || map.left_out > 0;
  return map.channels.map((channel) => h("span", { class: "channel" }, isNamed ? h("span", { class: "channel-name" }, channel.name) : null,
    s("svg", { class: "curve", viewBox: `0 0 ${CURVE[0]} ${CURVE[1]}`, preserveAspectRatio: "none", role: "img", "aria-label": `${channel.name}: ${map.words}` },
      s("image", { href: channel.bands, width: CURVE[0], height: CURVE[1], preserveAspectRatio: "none" }),
      s("polyline", { points: channel.points }))));
}

function caption(map) {
  if (map.left_out) return `${map.explainer}; ${map.left_out} weaker channels are not drawn`;
  return map.bars?.length > MOST_BARS ? `${map.explainer}, the strongest ${MOST_BARS} columns` : map.explainer;
}

const MOST_BARS = 6;

export function bars(map, most = MOST_BARS) {
  return h("div", { class: "bars" }, ...map.bars.slice(0, most).map((bar) =>
    h("div", { class: "bar" }, h("span", { class: "word" }, bar.word),
      h("span", { class: "room" }, h("span", { class: `length ${bar.sign}`, style: { width: `${100 * bar.share}%` } })))));
}

export function parts(card) {
  if (card.kind === "image") return imageParts(card);
  const draw = { text: (map) => [tokens(map)], series: curves, tabular: (map) => [bars(map)] }[card.kind];
  return card.maps.map((map) => h("figure", {}, ...draw(map), h("figcaption", {}, caption(map))));
}

// The text of an element that is used again.
function retell(element, text, name) {
  if (element.textContent !== text) element.textContent = text;
  if (name !== undefined && element.className !== name) element.className = name;
}

// Fill a card of the gallery. An element that showed a sample of the same form keeps its boxes, since making and laying
// out new ones is what takes the time while scrolling. Its pictures are new elements: one that is given another source
// shows the old picture until the new one is read.
export function fillCard(element, card) {
  const form = `${card.kind} ${Boolean(card.input)} ${Boolean(card.after)} ${card.maps.map((map) => map.explainer).join()}`;
  const image = card.kind === "image";
  if (element.form === form && image) {
    const [name, line, row] = element.children;
    retell(name, card.name);
    name.title = card.name;
    const fresh = facts(card);
    if (card.after) line.replaceWith(fresh);
    else retell(line, fresh.textContent, fresh.className);
    const tiles = [...(card.input ? [null] : []), ...card.maps];
    tiles.forEach((map, i) => row.children[i].firstChild.replaceChildren(...tile(card, map).children));
  } else {
    element.replaceChildren(
      h("span", { class: "name", title: card.name }, card.name),
      facts(card),
      h("span", { class: `parts ${card.kind}` }, ...parts(card)),
    );
    element.form = form;
  }
  element.setAttribute("aria-label", `${card.name}: ${verdict(card)}`);
}
