// Tables that sort, filter and copy.  Without this script the page shows the same tables as they stand.
"use strict";
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const text = (cell) => (cell ? cell.textContent.trim() : "");
  // "−3.2 % worse" is -3.2, "12.5K" is 12500; a cell without a number comes last.
  const number = (cell) => {
    const found = text(cell).replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1").match(/[-+]?\d*\.?\d+(?:e[-+]?\d+)?/i);
    const unit = text(cell).match(/\d\s?([KMG])/);
    return found ? parseFloat(found[0]) * (unit ? { K: 1e3, M: 1e6, G: 1e9 }[unit[1]] : 1) : null;
  };

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const isNumeric = rows.some((row) => number(row.cells[column]) !== null);
      const compare = (a, b) => {
        const [x, y] = [number(a.cells[column]), number(b.cells[column])];
        if (!isNumeric || column === 0) return sign * text(a.cells[column]).localeCompare(text(b.cells[column]));
        return x === null ? (y === null ? 0 : 1) : y === null ? -1 : sign * (x - y);
      };
      // Controls stay below the attentions.
      const parts = [rows.filter((row) => !row.matches(".control")), rows.filter((row) => row.matches(".control"))];
      body.append(...parts.flatMap((part) => (next ? [...part].sort(compare) : part)));
    });
  });

  const shown = () => [table.tHead.rows[0], ...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(text));
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const latex = (value) => value.replace(/[\\&%$#_{}~^]/g, (sign) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[sign] ?? `\\${sign}`)
    .replaceAll("\u2212", "$-$").replaceAll("±", "$\\pm$").replaceAll("↓", "$\\downarrow$").replaceAll("↑", "$\\uparrow$").replaceAll("×", "$\\times$");
  const forms = {
    CSV: () => shown().map((row) => row.map(quoted).join(",")).join("\n"),
    Markdown: () => shown().flatMap((row, index) => [`| ${row.join(" | ")} |`, ...(index ? [] : [`|${" --- |".repeat(row.length)}`])]).join("\n"),
    LaTeX: () => {
      const [head, ...rest] = shown().map((row) => `${row.map(latex).join(" & ")} \\\\`);
      const columns = "l" + "r".repeat(table.tHead.rows[0].cells.length - 1);
      return [`\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...rest, "\\bottomrule", "\\end{tabular}"].join("\n");
    },
  };

  const caption = document.getElementById(table.getAttribute("aria-labelledby"));
  const tools = table.closest(".tabled").querySelector(".tools");
  const files = tools.firstElementChild;
  if (rows.length > 5) {
    const filter = document.createElement("input");
    filter.type = "search";
    filter.placeholder = "filter rows";
    filter.setAttribute("aria-label", `Filter the rows of: ${text(caption)}`);
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    files.before(filter);
  }
  files.before("copy as");
  for (const [name, form] of Object.entries(forms)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(form());
      button.textContent = `${name} ✓`;
      setTimeout(() => { button.textContent = name; }, 1200);
    });
    files.before(button);
  }
}
