// The search would read the pages that it finds, which a browser forbids where they are files.
// This event comes once the page is read, before its deferred scripts, of which the search is one.
document.addEventListener("readystatechange", () => {
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
});

// Tables that say what their rows are can be filtered: a list of the values of each kind.
addEventListener("DOMContentLoaded", () => {
  for (const part of document.querySelectorAll(".psplib-wide.filtered")) {
    const rows = [...part.querySelectorAll("tr[data-verdict]")], bar = document.createElement("p");
    bar.className = "psplib-filter";
    const shown = Object.assign(document.createElement("span"), { role: "status" });
    const lists = Object.keys(rows[0]?.dataset ?? {}).map((kind) => {
      const list = document.createElement("select"), label = document.createElement("label");
      for (const value of ["all", ...new Set(rows.map((row) => row.dataset[kind]).filter(Boolean))])
        list.add(new Option(value, value));
      list.addEventListener("change", filter);
      label.append(`${kind} `, list);
      bar.append(label);
      return [kind, list];
    });
    function filter() {
      for (const row of rows)
        row.hidden = lists.some(([kind, list]) => list.value !== "all" && row.dataset[kind] !== list.value);
      for (const group of part.querySelectorAll("tbody, .psplib-panel"))
        group.hidden = [...group.querySelectorAll("tr[data-verdict]")].every((row) => row.hidden);
      for (const fold of part.querySelectorAll(".psplib-panel"))
        fold.open ||= lists.some(([, list]) => list.value !== "all");
      shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
    }
    bar.append(shown);
    part.before(bar);
    filter();
  }
});

// Downloads are compressed in the page, and a drawing is a part of it; what is saved is a file.
document.addEventListener("click", async (event) => {
  const link = event.target.closest('a[download$=".gz"], a[download][href^="#"]');
  if (!link) return;
  event.preventDefault();
  const drawing = link.hash && document.querySelector(link.hash);
  const content = drawing
    ? new Blob([new XMLSerializer().serializeToString(drawing)], { type: "image/svg+xml" })
    : await new Response((await fetch(link.href)).body.pipeThrough(new DecompressionStream("gzip"))).blob();
  const href = URL.createObjectURL(content), download = link.download.replace(/\.gz$/, "");
  Object.assign(document.createElement("a"), { download, href }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
});

// What a link leads to is shown beside it, on hover and on focus; it stays while pointed at, and goes with Escape.
addEventListener("DOMContentLoaded", () => {
  const links = "a[data-preview]";
  const said = Object.assign(document.createElement("div"), { id: "psplib-preview", hidden: true });
  said.setAttribute("role", "tooltip");
  document.querySelector("article")?.append(said);
  let of = null, leaving;
  function show(link) {
    clearTimeout(leaving);
    if (link === of) return;
    hide();
    of = link;
    said.innerHTML = link.dataset.preview;
    said.hidden = false;
    link.setAttribute("aria-describedby", said.id);
    place();
  }
  function place() {
    if (!of) return;
    const at = of.getClientRects()[0], room = document.documentElement.clientWidth - said.offsetWidth - 8;
    said.style.left = `${Math.max(8, Math.min(at.left, room))}px`;
    said.style.top = `${at.bottom + 4}px`;
  }
  function hide() {
    of?.removeAttribute("aria-describedby");
    of = null;
    said.hidden = true;
  }
  for (const event of ["mouseover", "focusin"])
    document.addEventListener(event, ({ target }) => {
      const link = target.closest(links);
      if (link) show(link);
      else if (said.contains(target)) clearTimeout(leaving);
      else if (of) { clearTimeout(leaving); leaving = setTimeout(hide, 200); }
    });
  addEventListener("keydown", ({ key }) => { if (key === "Escape") hide(); });
  addEventListener("scroll", place, { passive: true });
});

// What scrolls sideways gets the focus from the theme; it needs a role and a name of its own.
addEventListener("load", () => {
  let count = 0;
  function name() {
    for (const wide of document.querySelectorAll('article :is(div, pre)[tabindex="0"]:not([role])')) {
      wide.setAttribute("role", "region");
      wide.setAttribute("aria-label", `wide content ${(count += 1)}`);
    }
  }
  new MutationObserver(name).observe(document.body, { subtree: true, attributeFilter: ["tabindex"] });
  name();
});
