"use strict";
(() => {
  const one = (selector, inside = document) => inside.querySelector(selector);
  const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const body = one("#all-rows tbody");
  const heads = every("#all-rows thead th");
  const names = heads.map((head) => head.textContent.trim());
  const rows = [...body.rows];
  const tip = one("#tip");
  document.documentElement.classList.add("js");

  // -- what a row says ----------------------------------------------------------------------------------------------
  const textOf = (row, name) => rows[row].cells[names.indexOf(name)].textContent.trim();
  const wordsOf = (row) => rows[row].cells[0].lastChild.textContent.trim();
  const say = (row) => {
    const local = names.includes("local limit") && textOf(row, "local limit");
    const sides = ["A", "B"].map((side) => [side, local && textOf(row, `local error ${side}`)]).filter(([, error]) => error);
    const replayed = local && `local error ${sides.map(([side, error]) => `${side} ${error}`).join(", ")}, limit ${local}`;
    const error = textOf(row, local === false ? "error" : "difference");
    const apart = error && (local ? `${error} apart` : `error ${error}, limit ${textOf(row, "limit")}`);
    const why = textOf(row, "why").replace(/^NMSE [^;]*;? ?/, ""); // the error is said already
    return [textOf(row, "tensor"), wordsOf(row), replayed, apart, why].filter(Boolean).join("; ");
  };

  const select = (row) => {
    const title = document.createElement("h3");
    title.id = "detail-title";
    title.textContent = textOf(row, "tensor");
    const about = document.createElement("p");
    about.append(...[...rows[row].cells[0].childNodes].map((node) => node.cloneNode(true)));
    const list = document.createElement("dl");
    names.forEach((name, index) => {
      const text = rows[row].cells[index].textContent.trim();
      if (index < 2 || !text) return;
      const pair = document.createElement("div");
      for (const [kind, words] of [["dt", name], ["dd", text]]) {
        const part = document.createElement(kind);
        part.textContent = words;
        pair.append(part);
      }
      list.append(pair);
    });
    one("#detail").replaceChildren(title, about, list);
    every("table.map td[aria-selected='true']").forEach((cell) => cell.setAttribute("aria-selected", "false"));
    one(`table.map td[data-row="${row}"]`)?.setAttribute("aria-selected", "true");
    one("#status").textContent = `Shown beside the map: ${say(row)}`;
  };

  // -- the tip ------------------------------------------------------------------------------------------------------
  // Where a key has brought the tip, it goes along with ``anchor`` when the page scrolls.
  let anchor = null;
  const placeTip = (x, y) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18}px`;
  };
  const placeAtAnchor = () => {
    const box = anchor.getBoundingClientRect();
    placeTip(box.left, box.bottom - 12);
  };
  const showTip = (row, at) => {
    tip.textContent = say(row);
    tip.hidden = false;
    anchor = at instanceof Element ? at : null;
    if (anchor) placeAtAnchor(); else placeTip(at.clientX, at.clientY);
  };
  const hideTip = () => { tip.hidden = true; };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  document.addEventListener("scroll", () => {
    if (anchor && !tip.hidden) placeAtAnchor(); else hideTip();
  }, { capture: true, passive: true });

  // -- the maps: a grid with one tab stop ---------------------------------------------------------------------------
  const bindMap = (table) => {
    const cells = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    let at = one("td.guilty, td.first", table) ?? one("td[data-row]", table);
    if (!at) return;
    at.tabIndex = 0;
    const place = (cell) => [cell.parentNode.rowIndex - 1, cell.cellIndex - 1];
    const show = () => showTip(at.dataset.row, at);
    const move = (cell) => {
      at.tabIndex = -1;
      at = cell;
      at.tabIndex = 0;
      at.setAttribute("aria-label", say(at.dataset.row));
      at.focus({ preventScroll: true });
      at.scrollIntoView({ block: "nearest", inline: "nearest" });
      show();
    };
    at.setAttribute("aria-label", say(at.dataset.row));
    // The next cell in a direction that holds a tensor; the cell itself if there is none.
    const next = (down, right) => {
      let [row, column] = place(at);
      for (;;) {
        row += down;
        column += right;
        const cell = cells[row]?.[column];
        if (!cell) return at;
        if (cell.dataset.row) return cell;
      }
    };
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    table.addEventListener("keydown", (event) => {
      const filled = (list) => list.filter((cell) => cell.dataset.row);
      if (event.altKey || event.metaKey) return;
      if (steps[event.key]) move(next(...steps[event.key]));
      else if (event.key === "Home" || event.key === "End") {
        const line = filled(event.ctrlKey ? cells.flat() : cells[place(at)[0]]);
        move(event.key === "Home" ? line[0] : line[line.length - 1]);
      } else if (event.key === "Enter" || event.key === " ") select(at.dataset.row);
      else return;
      event.preventDefault();
    });
    table.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) show(); });
    table.addEventListener("focusout", hideTip);
    table.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("td[data-row]");
      if (cell) showTip(cell.dataset.row, event); else hideTip();
    });
    table.addEventListener("pointerleave", hideTip);
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-row]");
      if (!cell) return;
      move(cell);
      select(cell.dataset.row);
    });
  };
  every("table.map").forEach(bindMap);

  // -- the charts: arrows read along one, and go from one small chart to the next ------------------------------------
  const bindCharts = (charts) => {
    const made = charts.map((chart) => {
      const points = chart.dataset.points.split(" ").filter(Boolean).map((text) => text.split(",").map(Number));
      const cursor = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      cursor.setAttribute("class", "cursor");
      cursor.setAttribute("r", "5");
      cursor.setAttribute("visibility", "hidden");
      chart.append(cursor);
      return { chart, points, cursor };
    });
    let at = 0;
    const point = (item, spoken) => {
      const [row, x, y] = item.points[Math.min(at, item.points.length - 1)];
      item.cursor.setAttribute("cx", x);
      item.cursor.setAttribute("cy", y);
      item.cursor.setAttribute("visibility", "visible");
      showTip(row, item.cursor);
      if (spoken) one("#status").textContent = say(row);
      return row;
    };
    made.forEach((item, index) => {
      const { chart, points, cursor } = item;
      if (!points.length) return;
      const hide = () => { cursor.setAttribute("visibility", "hidden"); hideTip(); };
      const go = (other) => {
        if (!made[other]) return;
        made.forEach((each) => { each.chart.tabIndex = -1; });
        made[other].chart.tabIndex = 0;
        made[other].chart.focus();
      };
      chart.addEventListener("keydown", (event) => {
        const keys = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 };
        if (event.altKey || event.metaKey || event.ctrlKey) return;
        if (event.key in keys) {
          at = Math.max(0, Math.min(points.length - 1, keys[event.key]));
          point(item, true);
        } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
          if (made.length < 2) return;
          go(index + (event.key === "ArrowDown" ? 1 : -1));
        } else if (event.key === "Enter" || event.key === " ") select(point(item, false));
        else return;
        event.preventDefault();
      });
      chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) point(item, true); });
      chart.addEventListener("blur", hide);
      chart.addEventListener("pointerleave", hide);
      const nearest = (event) => {
        const box = chart.getBoundingClientRect();
        const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((length) => length * chart.viewBox.baseVal.width / box.width);
        const far = points.map(([, px, py]) => (px - x) ** 2 + ((py - y) / 6) ** 2);
        at = far.indexOf(Math.min(...far));
      };
      chart.addEventListener("pointermove", (event) => { nearest(event); point(item, false); });
      chart.addEventListener("click", (event) => { nearest(event); select(point(item, false)); });
    });
  };
  bindCharts(every(".chart.overview"));
  bindCharts(every(".chart.panel"));

  // -- the table: sorted by a column, filtered by words ---------------------------------------------------------------
  const keyOf = (row, column, numeric) => {
    const text = row.cells[column].textContent.trim();
    return numeric ? (text ? parseFloat(text) : NaN) : text;
  };
  const sort = (column, descending) => {
    const numeric = heads[column].classList.contains("n");
    const keyed = rows.map((row, index) => [keyOf(row, column, numeric), index, row]);
    keyed.sort(([a, i], [b, j]) => {
      const empty = (key) => key === "" || Number.isNaN(key);
      if (empty(a) || empty(b)) return empty(a) - empty(b) || i - j;
      // The names of tensors are sorted as they are executed.
      const order = column === 1 ? i - j : numeric ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return (descending ? -order : order) || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const numeric = head.classList.contains("n");
    button.addEventListener("click", () => {
      const sorted = head.getAttribute("aria-sort");
      sort(column, sorted ? sorted === "ascending" : numeric);
    });
  });
  const words = one("#filter");
  const choice = one("#filter-class");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const wanted = words.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const kept = wanted.every((word) => texts[index].includes(word)) && (!choice.value || wordsOf(index) === choice.value);
      row.hidden = !kept;
      shown += kept;
    });
    one("#filter-count").textContent = `${shown} of ${rows.length}`;
  };
  words.addEventListener("input", filter);
  choice.addEventListener("change", filter);
  one("form.filter").addEventListener("submit", (event) => event.preventDefault());

  // -- light and dark -------------------------------------------------------------------------------------------------
  one(".theme").hidden = false;
  every(".theme input").forEach((input) => input.addEventListener("change", () => {
    if (input.value) document.documentElement.dataset.theme = input.value;
    else delete document.documentElement.dataset.theme;
  }));
})();
