"use strict";
(() => {
  const list = document.getElementById("cards");
  const controls = document.getElementById("controls");
  if (controls) {
    const cards = Array.from(list.children);
    const update = () => {
      const wanted = new FormData(controls);
      const name = wanted.get("name").trim().toLowerCase();
      let shown = 0;
      for (const card of cards) {
        const fits = (!wanted.get("class") || card.dataset.class === wanted.get("class"))
          && (!wanted.get("right") || card.dataset.right === wanted.get("right"))
          && card.querySelector("h3").textContent.toLowerCase().includes(name);
        card.hidden = !fits;
        shown += fits;
      }
      document.getElementById("count").value = `${shown} of ${cards.length} sample${cards.length === 1 ? "" : "s"}`;
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
      list.append(...cards.slice().sort((a, b) => value(a) - value(b)));
    };
    const colour = () => {
      document.body.classList.toggle("unsigned-colours", new FormData(controls).get("colours") === "unsigned");
    };
    const overlay = () => {
      const on = Boolean(new FormData(controls).get("overlay"));
      document.body.classList.toggle("overlay", on);
      for (const card of cards) {
        const input = card.querySelector(".maps img:not(.heat)");
        const behind = on && input ? `url("${input.src}")` : "";
        for (const map of card.querySelectorAll(".heat")) map.parentElement.style.backgroundImage = behind;
      }
    };
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
