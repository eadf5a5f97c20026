// Font Awesome would replace the icons inside a Play widget's buttons, and their clicks with them.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };

// The widgets call MathJax 2 to typeset their labels; the book has MathJax 3.
addEventListener("DOMContentLoaded", () => {
  if (window.MathJax)
    MathJax.Hub = {
      Queue: ([, , element]) =>
        MathJax.startup.promise.then(() => MathJax.typesetPromise([element])),
    };
});

// The search would read the pages that it finds, which a browser forbids where they are files.
addEventListener("DOMContentLoaded", () => {
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
});
