"use strict";

// Numbers come first, by size; texts follow, by their letters. "inf" is last.
function compared(first, second) {
  const [a, b] = [Number(first), Number(second)];
  const isNumber = (text, value) => text !== "" && !Number.isNaN(value);
  if (isNumber(first, a) && isNumber(second, b)) return a - b;
  if (isNumber(first, a)) return -1;
  if (isNumber(second, b)) return 1;
  return first.localeCompare(second, "en");
}

function orderOf(row, column) {
  const cell = row.cells[column];
  // Without a number of its own, a row stands behind all others.
  const order = cell === undefined ? "inf" : (cell.dataset.order ?? cell.textContent);
  return order === "inf" ? "Infinity" : order;
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[column];
  const isUp = head.getAttribute("aria-sort") === "ascending";
  const sign = isUp ? -1 : 1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [first, second] = [orderOf(a, column), orderOf(b, column)];
    // What is not known is last in both directions.
    if (first === "Infinity" || second === "Infinity") {
      return Number(first === "Infinity") - Number(second === "Infinity");
    }
    return sign * compared(first, second);
  });
  table.tBodies[0].append(...rows);
  for (const one of heads) {
    one.setAttribute("aria-sort", "none");
    one.querySelector("button.sort").textContent = "↕";
  }
  head.setAttribute("aria-sort", isUp ? "descending" : "ascending");
  head.querySelector("button.sort").textContent = isUp ? "↓" : "↑";
}

// The buttons are made here, so that a page without scripts has none that do nothing.
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = "↕";
    const label = head.querySelector(".term")?.firstChild.textContent ?? head.textContent;
    button.setAttribute("aria-label", `sort by ${label.trim()}`);
    button.addEventListener("click", () => sort(table, column));
    head.setAttribute("aria-sort", "none");
    head.append(button);
  });
}

// What is folded is printed too.
const opened = [];
window.addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.open = true;
    opened.push(one);
  }
});
window.addEventListener("afterprint", () => {
  for (const one of opened.splice(0)) one.open = false;
});

// Escape closes a definition that has the focus.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement?.blur();
});
