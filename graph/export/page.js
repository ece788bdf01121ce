
"use strict";
(() => {
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const entries = [...document.querySelectorAll(".entry")];
  const panes = [...document.querySelectorAll(".pane")];
  const texts = new Map(entries.map((entry) => [entry, entry.textContent.toLowerCase()]));

  const boxOf = (pane, name) =>
    [...pane.querySelectorAll(".picture .node")].find((box) => box.id.replace(/^(second-)?node-/, "") === name);
  const entryOf = (pane, name) => [...pane.querySelectorAll(".entry")].find((entry) => entry.dataset.node === name);

  function choose(name, from) {
    for (const pane of panes) {
      for (const one of pane.querySelectorAll(".chosen")) one.classList.remove("chosen");
      const entry = entryOf(pane, name);
      const box = boxOf(pane, name);
      if (entry) {
        entry.classList.add("chosen");
        if (entry !== from) {
          if (entry.parentElement.tagName === "DETAILS") entry.parentElement.open = true;
          entry.open = true;
          entry.scrollIntoView({ block: "nearest" });
        }
      }
      if (box) {
        box.classList.add("chosen");
        if (box !== from) box.scrollIntoView({ block: "center", inline: "center" });
      }
    }
  }

  for (const pane of panes) {
    for (const box of pane.querySelectorAll(".picture .node")) {
      const name = box.id.replace(/^(second-)?node-/, "");
      box.setAttribute("tabindex", "0");
      box.setAttribute("role", "button");
      box.addEventListener("click", () => choose(name, box));
      box.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose(name, box);
        }
      });
    }
  }
  for (const entry of entries) {
    entry.querySelector("summary").addEventListener("click", () => choose(entry.dataset.node, entry));
  }

  function search() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const entry of entries) {
      const matches = words.every((word) => texts.get(entry).includes(word));
      entry.classList.toggle("away", !matches);
      const box = boxOf(entry.closest(".pane"), entry.dataset.node);
      if (box) box.classList.toggle("away", !matches);
      count += matches ? 1 : 0;
    }
    for (const cluster of document.querySelectorAll(".cluster-of")) {
      cluster.classList.toggle("away", !cluster.querySelector(".entry:not(.away)"));
      if (words.length) cluster.open = true;
    }
    found.textContent = words.length ? `${count} of ${entries.length} nodes` : "";
  }

  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    const first = entries.find((entry) => !entry.classList.contains("away"));
    if (event.key === "Enter" && first) choose(first.dataset.node, null);
    if (event.key === "Escape") {
      find.value = "";
      search();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== find) {
      event.preventDefault();
      find.focus();
    }
  });
  document.getElementById("unfold").addEventListener("click", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  document.getElementById("fold").addEventListener("click", () => document.querySelectorAll("details").forEach((one) => (one.open = false)));
  document.querySelector(".tools").hidden = false;
})();
