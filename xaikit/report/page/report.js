"use strict";
(() => {
  const list = document.getElementById("cards");
  const controls = document.getElementById("controls");
  if (controls) {
    const rest = document.getElementById("held");
    const texts = Array.from(rest?.querySelectorAll("script") ?? []);
    const held = new Map(); // the place of each card that is held as text
    for (const card of Array.from(rest?.querySelectorAll("li") ?? [])) {
      held.set(card, held.size);
      card.hidden = true;
      list.append(card);
    }
    let cards = Array.from(list.children);
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
      let shown = 0;
      for (const card of cards) {
        const fits = (!wanted.get("class") || card.dataset.class === wanted.get("class"))
          && (!wanted.get("right") || card.dataset.right === wanted.get("right"))
          && card.dataset.name.toLowerCase().includes(name);
        shown += fits;
        card.hidden = !fits || shown > revealed;
      }
      document.getElementById("count").value = `${shown} of ${cards.length} sample${cards.length === 1 ? "" : "s"}`;
      more.unobserve(end);
      if (shown > revealed) more.observe(end);
    };
    const sort = () => {
      const key = new FormData(controls).get("order");
      const values = {
        index: (card) => Number(card.dataset.index),
        score: (card) => -Number(card.dataset.score),
        "-score": (card) => Number(card.dataset.score),
        wrong: (card) => card.dataset.right === "wrong" ? 0 : 1,
        gap: (card) => -Number(card.dataset.gap),
        disagreement: (card) => -Number(card.dataset.disagreement),
      };
      const value = values[key];
      cards = cards.toSorted((a, b) => value(a) - value(b));
      list.append(...cards);
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
      cards.forEach(overlayCard);
    };
    // Of a long page, most cards are held as text. They are drawn when they come near the screen, and for paper, and
    // put back as text when they are far away, unless the reader is in one.
    let split = { number: -1, cards: [] }; // the last text that was looked into: neighbours come together
    const draw = (card) => {
      if (card.childElementCount || !held.has(card)) return;
      const place = held.get(card);
      const together = Number(rest.dataset.together);
      const number = Math.floor(place / together);
      if (split.number !== number) split = { number, cards: texts[number].textContent.split('<hr class="next">') };
      card.innerHTML = split.cards[place % together];
      overlayCard(card);
    };
    const near = new IntersectionObserver((changes) => {
      for (const { target, isIntersecting } of changes) {
        if (isIntersecting) draw(target);
        else if (!target.contains(document.activeElement)) target.replaceChildren();
      }
    }, { rootMargin: "1500px 0px" });
    const watch = () => held.forEach((_, card) => near.observe(card));
    watch();
    window.addEventListener("beforeprint", () => {
      near.disconnect();
      near.takeRecords();
      reveal(cards.length);
      cards.filter((card) => !card.hidden).forEach(draw);
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
