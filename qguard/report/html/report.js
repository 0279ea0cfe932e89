
"use strict";
// sorting and filtering; without a script every row is shown, in the order of the report
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent.trim().toLowerCase() : cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
};
const compare = (a, b) => {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b));
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a - b;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      const empty = (row) => Number.isNaN(value(row, column));
      rows.sort((a, b) => empty(a) - empty(b) || (down ? -1 : 1) * compare(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}
for (const tools of document.querySelectorAll(".tools")) {
  const rows = [...document.getElementById(tools.dataset.table).tBodies[0].rows];
  const [which, words, count] = [tools.querySelector("select"), tools.querySelector("input"), tools.querySelector("output")];
  const shown = {
    main: (row) => row.dataset.outcome === "fail" || row.dataset.slice === "",
    failed: (row) => row.dataset.outcome === "fail",
    gated: (row) => row.dataset.outcome !== "reported",
    all: () => true,
  };
  const apply = () => {
    const wanted = words.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = !(shown[which.value](row) && row.dataset.label.toLowerCase().includes(wanted));
      left += !row.hidden;
    }
    count.textContent = `${left} of ${rows.length} checks`;
  };
  which.addEventListener("change", apply);
  words.addEventListener("input", apply);
  tools.hidden = false;
  apply();
}
// a link to a run that is folded opens it
const open = () => {
  const run = location.hash && document.getElementById(location.hash.slice(1));
  if (run && run.tagName === "DETAILS") run.open = true;
};
addEventListener("hashchange", open);
open();
