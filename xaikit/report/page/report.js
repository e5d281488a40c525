"use strict";
(() => {
  const list = document.getElementById("cards");
  const controls = document.getElementById("controls");
  if (controls) {
    // A card is its facts, and its element once it is on the page. The elements of a long page would take more memory than
    // its packed texts, so those beyond the first are made when they are revealed.
    const rest = document.getElementById("held");
    const facts = rest?.querySelector("#facts");
    facts?.remove();
    const texts = Array.from(rest?.children ?? []);
    const number = (text) => text === "" ? null : Number(text);
    const kind = list.firstElementChild.className;
    const first = Array.from(list.children, (element) => {
      const { name, index, class: group, right, score, gap, disagreement } = element.dataset;
      return { element, name, index: Number(index), group, right, score: number(score), gap: number(gap), disagreement: number(disagreement) };
    });
    const known = facts ? JSON.parse(facts.textContent) : { name: [] };
    const others = known.name.map((name, place) => ({
      place, name, index: known.index[place], group: known.group[place], right: known.right[place],
      score: known.score[place], gap: known.gap[place], disagreement: known.disagreement[place],
    }));
    let printing = false;
    let cards = [...first, ...others];
    const held = new WeakMap(); // the place of an element's card in the texts
    const elementOf = (card) => {
      if (card.element) return card.element;
      card.element = document.createElement("li");
      card.element.className = kind;
      Object.assign(card.element.dataset, { right: card.right, score: card.score });
      held.set(card.element, card.place);
      if (!printing) near.observe(card.element);
      return card.element;
    };
    const step = Number(list.dataset.step);
    let revealed = step; // cards that are laid out, of those that fit; the end of the list reveals more
    const end = document.getElementById("end");
    const more = new IntersectionObserver((changes) => {
      if (changes.at(-1).isIntersecting) reveal(revealed + step);
    }, { rootMargin: "3000px 0px" });
    const reveal = (count) => {
      revealed = count;
      update();
    };
    const update = () => {
      const wanted = new FormData(controls);
      const name = wanted.get("name").trim().toLowerCase();
      const fitting = cards.filter((card) => (!wanted.get("class") || card.group === wanted.get("class"))
        && (!wanted.get("right") || card.right === wanted.get("right"))
        && card.name.toLowerCase().includes(name));
      const shown = fitting.length;
      const elements = fitting.slice(0, revealed).map(elementOf);
      const same = elements.length >= list.childElementCount && Array.from(list.children).every((element, i) => element === elements[i]);
      if (same) list.append(...elements.slice(list.childElementCount));
      else list.replaceChildren(...elements);
      document.getElementById("count").value = `${shown} of ${cards.length} sample${cards.length === 1 ? "" : "s"}`;
      more.unobserve(end);
      if (shown > revealed) more.observe(end);
    };
    const sort = () => {
      const key = new FormData(controls).get("order");
      const values = {
        index: (card) => card.index,
        score: (card) => -card.score,
        "-score": (card) => card.score,
        wrong: (card) => card.right === "wrong" ? 0 : 1,
        gap: (card) => -card.gap,
        disagreement: (card) => -card.disagreement,
      };
      const value = values[key];
      cards = cards.toSorted((a, b) => value(a) - value(b));
      update();
    };
    const colour = () => {
      document.body.classList.toggle("unsigned-colours", new FormData(controls).get("colours") === "unsigned");
    };
    const overlayCard = (card) => {
      const input = card.querySelector(".maps img:not(.heat)");
      const behind = document.body.classList.contains("overlay") && input ? `url("${input.src}")` : "";
      for (const map of card.querySelectorAll(".heat")) map.parentElement.style.backgroundImage = behind;
    };
    const overlay = () => {
      document.body.classList.toggle("overlay", Boolean(new FormData(controls).get("overlay")));
      for (const { element } of cards) if (element) overlayCard(element);
    };
    // Of a long page, most cards are held as packed text. They are drawn when they come near the screen, and for paper, and
    // put back as text when they are far away, unless the reader is in one.
    let split = { number: -1, cards: [] }; // the last text that was looked into: neighbours come together
    const draw = (card) => {
      if (card.childElementCount || !held.has(card)) return;
      const place = held.get(card);
      const together = Number(rest.dataset.together);
      const number = Math.floor(place / together);
      if (split.number !== number) split = { number, cards: unpacked(texts[number].textContent).split('<hr class="next">') };
      card.innerHTML = split.cards[place % together];
      overlayCard(card);
    };
    const near = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        if (isIntersecting) draw(target);
        else if (!target.contains(document.activeElement)) target.replaceChildren();
      }
    }, { rootMargin: "1500px 0px" });
    const watch = () => {
      printing = false;
      for (const { element, place } of cards) if (element && place !== undefined) near.observe(element);
    };
    window.addEventListener("beforeprint", () => {
      printing = true;
      near.disconnect();
      near.takeRecords();
      reveal(cards.length);
      Array.from(list.children).forEach(draw);
    });
    window.addEventListener("afterprint", watch);
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("change", (event) => {
      if (event.target.name === "order") sort();
      else if (event.target.name === "colours") colour();
      else if (event.target.name === "overlay") overlay();
      else update();
    });
    controls.elements.name.addEventListener("input", update);
    // A browser that goes back keeps the choices but not what they did.
    controls.reset();
    update();
  }

  const large = document.getElementById("large");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.zoom");
    if (!button) return;
    const from = button.querySelector("img");
    const to = large.querySelector("img");
    to.src = from.src;
    to.alt = from.alt;
    to.className = from.className;
    large.querySelector("figcaption").textContent = from.alt;
    large.showModal();
  });
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent.trim();
      const rows = Array.from(table.tBodies[0].rows).sort((a, b) => {
        const [x, y] = [a, b].map((row) => parseFloat(text(row).replaceAll(",", "")));
        const order = isNaN(x) || isNaN(y) ? text(a).localeCompare(text(b)) : x - y;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    }));
  }
})();
