// Figures that answer: curves with arms to choose from, a plane of the space of weights and a walk over
// it, thresholds, panels, slides. Plain JavaScript, from the numbers in the page: no kernel, network, library.
window.psplibLive ??= (() => {
  const NS = "http://www.w3.org/2000/svg";
  const STYLE = `
    .psplib-live { margin: 1rem 0; color: inherit }
    .psplib-live svg[viewBox] { width: 100%; max-width: 45rem; height: auto; display: block; touch-action: pan-y }
    .psplib-live .controls svg { display: inline-block; width: 24px; height: 12px; margin: 0 .3em }
    .psplib-live .controls { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .3rem 0 }
    .psplib-live select { font: inherit; max-width: 100% }
    .psplib-live text { fill: currentColor; font-size: 13px }
    .psplib-live .wide { display: flex; max-width: 45rem; gap: .5em }
    .psplib-live .wide input { flex: 1 }
    .psplib-live .small { font-size: 12px }
    .psplib-live .grid { stroke: currentColor; opacity: .15 }
    .psplib-live .level { stroke: currentColor; stroke-dasharray: 6 4; opacity: .7 }
    .psplib-live .ring { fill: none; stroke: currentColor; stroke-width: 2 }
    .psplib-live image ~ .ring, .psplib-live .stays { stroke: white; fill: none; stroke-width: 2 }
    .psplib-live output { display: block; min-height: 3em; font-variant-numeric: tabular-nums }`;
  const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
    .map(h => [0, 2, 4].map(i => parseInt(h.slice(i, i + 2), 16)));

  function node(parent, tag, attributes = {}, text = "") {
    const made = parent.namespaceURI === NS || tag === "svg" ? document.createElementNS(NS, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return parent.appendChild(made);
  }

  function choice(parent, name, options, change) {
    const label = node(parent, "label", {}, name + " ");
    const list = node(label, "select", { "aria-label": name });
    options.forEach((text, i) => node(list, "option", { value: i }, text));
    list.addEventListener("change", () => change(+list.value));
    return list;
  }

  const digits = (x, n = 4) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-4 ? x.toExponential(n - 1) : (+x.toPrecision(n)).toString());
  const signed = (x, sign) => (sign && x >= 0 ? "+" : "") + x.toFixed(2).replace("-", "−");

  // Positions on an axis [low, high] -> [from, to], and round ticks: 1, 2, 5 of each decade.
  function axis(low, high, from, to, log) {
    const f = log ? Math.log : x => x;
    const at = x => from + ((f(x) - f(low)) / (f(high) - f(low))) * (to - from);
    const [least, most] = low < high ? [low, high] : [high, low], ticks = [];
    if (log) {
      for (let d = Math.floor(Math.log10(least)); d <= Math.ceil(Math.log10(most)); d++)
        for (const m of [1, 2, 5]) ticks.push(m * 10 ** d);
    } else {
      const rough = (most - least) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
      for (let i = Math.ceil(least / step); i * step <= most; i++) ticks.push(i * step);
    }
    const within = ticks.filter(t => t >= least && t <= most);
    return { at, ticks: within, name: t => (+t.toPrecision(12)).toString().replace("-", "−") };
  }

  function axes(svg, x, y, box, xlabel, ylabel) {
    const group = node(svg, "g", { class: "axes" });
    for (const t of x.ticks) {
      node(group, "line", { x1: x.at(t), x2: x.at(t), y1: box.top, y2: box.bottom, class: "grid" });
      node(group, "text", { x: x.at(t), y: box.bottom + 16, "text-anchor": "middle" }, x.name(t));
    }
    for (const t of y.ticks) {
      node(group, "line", { x1: box.left, x2: box.right, y1: y.at(t), y2: y.at(t), class: "grid" });
      node(group, "text", { x: box.left - 6, y: y.at(t) + 4, "text-anchor": "end" }, y.name(t));
    }
    node(group, "text", { x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" }, xlabel);
    const middle = (box.top + box.bottom) / 2;
    node(group, "text", { x: box.left - 46, y: middle, transform: `rotate(-90 ${box.left - 46} ${middle})`, "text-anchor": "middle" }, ylabel);
  }

  function mark(parent, shape, x, y, size, attributes) {
    const s = size;
    const paths = {
      o: `M${x - s},${y}a${s},${s} 0 1 0 ${2 * s},0a${s},${s} 0 1 0 ${-2 * s},0`,
      s: `M${x - s},${y - s}h${2 * s}v${2 * s}h${-2 * s}z`,
      D: `M${x},${y - 1.3 * s}l${1.3 * s},${1.3 * s}l${-1.3 * s},${1.3 * s}l${-1.3 * s},${-1.3 * s}z`,
      "^": `M${x},${y - 1.2 * s}l${1.2 * s},${2.2 * s}h${-2.4 * s}z`,
      v: `M${x},${y + 1.2 * s}l${1.2 * s},${-2.2 * s}h${-2.4 * s}z`,
    };
    return node(parent, "path", { d: paths[shape] ?? paths.o, ...attributes });
  }

  const median = values => {
    const sorted = [...values].sort((a, b) => a - b), n = sorted.length;
    return (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2;
  };

  // Mean and 95 % t-interval.
  function interval(values, t) {
    const n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
    if (n < 2) return { n, mean };
    const half = (t[n - 2] * Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1))) / Math.sqrt(n);
    return { n, mean, low: mean - half, high: mean + half };
  }

  // What is to be shown, values or the difference to an arm; and the arms, which can be left out.
  function offer(show, legend, what, arms, hidden, draw) {
    show.replaceChildren();
    node(show, "option", { value: -1 }, what);
    arms.forEach((a, i) => node(show, "option", { value: i }, `difference to: ${a.name}`));
    legend.replaceChildren();
    for (const arm of arms) {
      const label = node(legend, "label");
      const box = node(label, "input", { type: "checkbox" });
      box.checked = !hidden.has(arm.name);
      box.addEventListener("change", () => { box.checked ? hidden.delete(arm.name) : hidden.add(arm.name); draw(); });
      const swatch = node(label, "svg", { viewBox: "0 0 24 12", width: 24, height: 12, "aria-hidden": true });
      node(swatch, "line", { x1: 0, x2: 24, y1: 6, y2: 6, stroke: arm.color, "stroke-width": 2 });
      mark(swatch, arm.marker, 12, 6, 4, { fill: arm.color });
      node(label, "span", {}, arm.name);
    }
  }

  function curves(stage, spec, id) {
    let panel = 0, base = -1, hidden = new Set(), chosen = null;
    const controls = node(stage, "div", { class: "controls" });
    if (spec.panels.length > 1) choice(controls, "panel", spec.panels.map(p => p.title), i => { panel = i; base = -1; show.value = -1; fill(); draw(); });
    const show = choice(controls, "show", [], i => { base = i; draw(); });
    const legend = node(stage, "div", { class: "controls", role: "group", "aria-label": "arms shown" });
    const svg = node(stage, "svg", { viewBox: "0 0 720 440", role: "img", tabindex: 0 });
    const readout = node(stage, "output", { "aria-live": "polite" });
    const more = node(stage, "details");
    node(more, "summary", {}, "The numbers");
    const table = node(more, "table", { class: "psplib" });
    let points = [];

    const fill = () => offer(show, legend, "test error", spec.panels[panel].arms, hidden, draw);

    // What an arm shows at a point: its replicas' errors, or those minus the other arm's, replica by replica.
    function values(arm, other, point) {
      const own = arm.points[point];
      if (!other) return own;
      const theirs = other.points[point];
      if (!own || !theirs) return null;
      const single = v => Object.keys(v).length === 1 && "-1" in v;
      const names = Object.keys(single(own) ? theirs : own).filter(r => single(own) || single(theirs) || r in theirs);
      return Object.fromEntries(names.map(r => [r, (single(own) ? own[-1] : own[r]) - (single(theirs) ? theirs[-1] : theirs[r])]));
    }

    function draw() {
      const here = spec.panels[panel], other = here.arms[base];
      const box = { left: 58, right: 704, top: 14, bottom: 392 };
      points = [];
      for (const arm of here.arms) {
        if (hidden.has(arm.name) || arm === other) continue;
        for (const point of Object.keys(arm.points)) {
          const v = values(arm, other, point);
          if (v && Object.keys(v).length) points.push({ arm, point, x: here.density[point], ...interval(Object.values(v), spec.t), values: Object.values(v) });
        }
      }
      const seen = points.flatMap(p => [...p.values, p.mean]).concat(other || !here.dense ? [] : [here.dense]);
      const log = !other && Math.min(...seen) > 0;
      let [low, high] = seen.length ? [Math.min(...seen), Math.max(...seen)] : [0, 1];
      [low, high] = log ? [low * 0.85, high * 1.15] : [Math.min(low, 0), Math.max(high, 0)].map((v, i, a) => v + (i - 0.5) * 0.12 * (a[1] - a[0] || 1));
      const x = axis(110, 0.88 * Math.min(...Object.values(here.density)), box.left, box.right, true);
      const y = axis(low, high, box.bottom, box.top, log);
      svg.replaceChildren();
      const unit = other ? "points" : "%";
      axes(svg, x, y, box, "surviving parameters [%]  (sparser →)", other ? `minus ${other.name} [points]` : "test error [%]");
      const level = other ? 0 : here.dense;
      if (level !== undefined && level !== null) {
        node(svg, "line", { x1: box.left, x2: box.right, y1: y.at(level), y2: y.at(level), class: "level" });
        node(svg, "text", { x: box.left + 6, y: y.at(level) + (other ? -5 : 16), class: "small" }, other ? "no difference" : `dense ${here.dense.toFixed(2)} %`);
      }
      const clip = v => y.at(Math.min(high, Math.max(low, v)));
      for (const arm of here.arms) {
        const own = points.filter(p => p.arm === arm).sort((a, b) => b.x - a.x);
        if (!own.length) continue;
        const wide = own.filter(p => p.low !== undefined);
        if (wide.length > 1) {
          const edge = [...wide.map(p => `${x.at(p.x)},${clip(p.high)}`), ...wide.reverse().map(p => `${x.at(p.x)},${clip(p.low)}`)];
          node(svg, "polygon", { points: edge.join(" "), fill: arm.color, opacity: 0.18 });
        }
        const path = (values, width) => node(svg, "polyline", { points: own.map((p, i) => `${x.at(p.x)},${y.at(values[i])}`).join(" "), fill: "none", stroke: arm.color, "stroke-width": width });
        const means = own.map(p => p.mean), single = own.every(p => p.n < 2);
        if (single) path(means.map((_, i) => median(means.slice(Math.max(0, i - 2), i + 3))), 2);
        path(means, single ? 0.8 : 2);
        for (const p of own) {
          if (single && !here.arms.some(a => a !== arm && p.point in a.points)) continue;
          if (p.n > 1) for (const v of p.values) mark(svg, "o", x.at(p.x), y.at(v), 1.6, { fill: arm.color, opacity: 0.4 });
          mark(svg, arm.marker, x.at(p.x), y.at(p.mean), 4, { fill: arm.color });
        }
      }
      for (const p of points) p.px = x.at(p.x), p.py = y.at(p.mean);
      svg.setAttribute("aria-label", `${here.title}: ${other ? `test error minus that of ${other.name}` : "test error"} by sparsity of ${[...new Set(points.map(p => p.arm.name))].join("; ")}. The arrow keys walk from point to point.`);
      table.replaceChildren();
      const head = node(node(table, "thead"), "tr");
      for (const name of ["network", "sparsity", unit === "%" ? "test error [%]" : "difference [points]", "95 % interval", "n"]) node(head, "th", { scope: "col" }, name);
      const body = node(table, "tbody");
      for (const p of points) {
        const row = node(body, "tr");
        for (const cell of [p.arm.name, sparsity(p), signed(p.mean, other), p.low === undefined ? "–" : `${signed(p.low, other)} to ${signed(p.high, other)}`, p.n]) node(row, "td", {}, cell);
      }
      readout.textContent = "Point at the figure, or walk with the arrow keys.";
      chosen = null;
    }

    const sparsity = p => `${(100 - p.x).toFixed(2)} %`;
    function choose(p) {
      if (!p || p === chosen) return;
      chosen = p;
      svg.querySelector(".ring")?.remove();
      node(svg, "circle", { cx: p.px, cy: p.py, r: 8, class: "ring" });
      const other = base >= 0, unit = other ? "points" : "%";
      const range = p.low === undefined ? "" : ` [${signed(p.low, other)}, ${signed(p.high, other)}], ${p.n} replicas`;
      readout.textContent = `${p.arm.name}, ${sparsity(p)} pruned: ${signed(p.mean, other)} ${unit}${range}`;
    }
    svg.addEventListener("pointermove", e => {
      const r = svg.getBoundingClientRect(), mx = ((e.clientX - r.left) / r.width) * 720, my = ((e.clientY - r.top) / r.height) * 440;
      const far = p => (p.px - mx) ** 2 + (p.py - my) ** 2;
      choose(points.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null));
    });
    svg.addEventListener("keydown", e => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key], turn = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (!(step || turn) || !points.length) return;
      e.preventDefault();
      if (!chosen) return choose(points[0]);
      const names = [...new Set(points.map(p => p.arm))];
      if (turn) {
        const arm = names[(names.indexOf(chosen.arm) + turn + names.length) % names.length];
        return choose(points.filter(p => p.arm === arm).reduce((a, b) => (Math.abs(a.x - chosen.x) <= Math.abs(b.x - chosen.x) ? a : b)));
      }
      const own = points.filter(p => p.arm === chosen.arm).sort((a, b) => b.x - a.x);
      choose(own[own.indexOf(chosen) + step]);
    });
    fill();
    draw();
  }

  const numbers = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const nearest = (list, v) => list.reduce((best, w, i) => (Math.abs(w - v) < Math.abs(list[best] - v) ? i : best), 0);
  const colour = share => {
    const s = Math.min(0.9999, Math.max(0, share)) * (VIRIDIS.length - 1), i = Math.floor(s);
    return VIRIDIS[i].map((c, k) => Math.round(c + (s - i) * (VIRIDIS[i + 1][k] - c)));
  };

  // A map in colours, within `width` and `height`: axes, lines of equal loss, the two solutions.
  function surface(svg, { alpha, beta, columns }, z, log, width, height, solutions) {
    const nx = alpha.length, ny = beta.length, f = log ? Math.log : v => v;
    const low = f(z.reduce((a, b) => Math.min(a, b))), high = f(z.reduce((a, b) => Math.max(a, b)));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [nx, ny];
    const context = canvas.getContext("2d"), pixels = context.createImageData(nx, ny);
    for (let j = 0; j < ny; j++)
      for (let i = 0; i < nx; i++)
        pixels.data.set([...colour((f(z[j * nx + i]) - low) / (high - low || 1)), 255], 4 * ((ny - 1 - j) * nx + i));
    context.putImageData(pixels, 0, 0);
    const dx = (alpha[nx - 1] - alpha[0]) / (nx - 1), dy = (beta[ny - 1] - beta[0]) / (ny - 1);
    const size = Math.min(width / (nx * dx), height / (ny * dy));
    const box = { left: 58, right: 58 + size * nx * dx, top: 12, bottom: 12 + size * ny * dy };
    const x = axis(alpha[0] - dx / 2, alpha[nx - 1] + dx / 2, box.left, box.right, false);
    const y = axis(beta[0] - dy / 2, beta[ny - 1] + dy / 2, box.bottom, box.top, false);
    axes(svg, x, y, box, "α", "β");
    node(svg, "image", { href: canvas.toDataURL(), x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, preserveAspectRatio: "none", style: "image-rendering: pixelated" });
    contours(svg, columns.loss, alpha, beta, x, y);
    for (const s of solutions) {
      node(svg, "circle", { cx: x.at(s.alpha), cy: y.at(0), r: 6, fill: s.color, stroke: "white", "stroke-width": 1.5 });
      node(svg, "text", { x: x.at(s.alpha), y: y.at(0) - 10, "text-anchor": "middle", style: "fill: white; font-weight: bold" }, s.name);
    }
    return { x, y, box };
  }

  // Lines of equal loss, by marching squares; their levels grow by equal factors.
  function contours(svg, loss, alpha, beta, x, y) {
    const nx = alpha.length, low = loss.reduce((a, b) => Math.min(a, b)) * 1.15, high = loss.reduce((a, b) => Math.max(a, b)) * 0.9;
    if (!(low > 0 && low < high)) return;
    let path = "";
    for (let k = 0; k < 7; k++) {
      const level = low * (high / low) ** (k / 6);
      for (let j = 0; j + 1 < beta.length; j++)
        for (let i = 0; i + 1 < nx; i++) {
          const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
          const cut = [];
          for (let c = 0; c < 4; c++) {
            const [a, b] = corners[c], [d, e] = corners[(c + 1) % 4], v = loss[b * nx + a], w = loss[e * nx + d];
            if (v < level !== w < level) {
              const s = (level - v) / (w - v);
              cut.push([x.at(alpha[a] + s * (alpha[d] - alpha[a])), y.at(beta[b] + s * (beta[e] - beta[b]))]);
            }
          }
          for (let c = 0; c + 1 < cut.length; c += 2) path += `M${cut[c].map(v => v.toFixed(1))}L${cut[c + 1].map(v => v.toFixed(1))}`;
        }
    }
    node(svg, "path", { d: path, fill: "none", stroke: "white", "stroke-width": 0.8, opacity: 0.85 });
  }

  function plane(stage, spec) {
    for (const map of spec.maps) for (const name in map.columns) map.columns[name] = numbers(map.columns[name]);
    const unique = list => [...new Set(list)];
    const coordinates = unique(spec.maps.map(m => m.coordinates));
    let where = coordinates[0], quantity = spec.quantities[0], layer = "", at = null;
    const column = () => (layer ? `${quantity}.${layer}` : quantity);
    const has = name => spec.maps.find(m => m.coordinates === where && name in m.columns);
    const layers = () => unique(spec.maps.filter(m => m.coordinates === where).flatMap(m => Object.keys(m.columns)).filter(c => c === quantity || c.startsWith(quantity + ".")).map(c => c.slice(quantity.length + 1)));
    const controls = node(stage, "div", { class: "controls" });
    let within;
    if (spec.quantities.length > 1) choice(controls, "quantity", spec.quantities.map(q => spec.labels[q]), i => { quantity = spec.quantities[i]; renew(); });
    const list = choice(controls, "layer", [], i => { layer = within[i]; draw(); });
    if (coordinates.length > 1) choice(controls, "random direction in", coordinates.map(c => `${c} coordinates`), i => { where = coordinates[i]; renew(); });
    const svg = node(stage, "svg", { viewBox: "0 0 640 500", role: "img", tabindex: 0 });
    const readout = node(stage, "output", { "aria-live": "polite" });
    let map, x, y, box;

    function renew() {
      within = layers();
      if (!within.includes(layer)) layer = within[0] ?? "";
      list.replaceChildren();
      within.forEach((l, i) => node(list, "option", { value: i }, l || "all layers"));
      list.value = within.indexOf(layer);
      list.parentNode.hidden = within.length < 2;
      draw();
    }

    function draw() {
      map = has(column());
      svg.replaceChildren();
      readout.textContent = map ? "Point at the map, or walk with the arrow keys; a click stays." : "Not computed.";
      at = null;
      if (!map) return;
      const { alpha, beta } = map, z = map.columns[column()], nx = alpha.length, ny = beta.length;
      const low = z.reduce((a, b) => Math.min(a, b)), high = z.reduce((a, b) => Math.max(a, b));
      const log = low > 0 && ["loss", "magnitude"].includes(quantity);
      ({ x, y, box } = surface(svg, map, z, log, 470, 430, spec.solutions));
      const right = box.right + 24;
      for (let i = 0; i < 100; i++)
        node(svg, "rect", { x: right, y: box.bottom - ((i + 1) / 100) * (box.bottom - box.top), width: 16, height: (box.bottom - box.top) / 100 + 1, fill: `rgb(${colour(i / 99)})`, "shape-rendering": "crispEdges" });
      const bar = axis(low, high || low + 1, box.bottom, box.top, log);
      for (const t of bar.ticks) node(svg, "text", { x: right + 21, y: bar.at(t) + 4 }, bar.name(t));
      const title = spec.labels[quantity] + (layer ? `, ${layer}` : "");
      node(svg, "text", { x: right + 74, y: (box.top + box.bottom) / 2, transform: `rotate(-90 ${right + 74} ${(box.top + box.bottom) / 2})`, "text-anchor": "middle" }, title);
      const value = s => digits(z[nearest(beta, 0) * nx + nearest(alpha, s.alpha)]);
      svg.setAttribute("aria-label", `Map of ${title} over the plane through G and 1-S, the random direction in ${where} coordinates: ${spec.solutions.map(s => `${value(s)} at ${s.name}`).join(", ")}; from ${digits(low)} to ${digits(high)}. The arrow keys walk over it.`);
    }

    function choose(i, j, stay) {
      if (!map) return;
      at = [i, j];
      const { alpha, beta } = map, [px, py] = [x.at(alpha[i]), y.at(beta[j])];
      svg.querySelector(".ring")?.remove();
      node(svg, "circle", { cx: px, cy: py, r: 7, class: "ring" });
      if (stay) {
        svg.querySelector(".stays")?.remove();
        node(svg, "circle", { cx: px, cy: py, r: 4, class: "stays" });
      }
      const value = name => digits(map.columns[name][j * alpha.length + i]);
      const names = unique([column(), "loss", "error", ...Object.keys(spec.labels)]).filter(n => n in map.columns);
      readout.textContent = `α = ${alpha[i].toFixed(2)}, β = ${beta[j].toFixed(2)}: `.replaceAll("-", "−")
        + names.map(n => `${spec.labels[n.split(".")[0]].replace(/ \[.*/, "")}${n.includes(".") ? `, ${n.split(".")[1]}` : ""} ${value(n)}${n === "error" ? " %" : ""}`).join("; ");
    }
    function point(e, stay) {
      const r = svg.getBoundingClientRect(), px = ((e.clientX - r.left) / r.width) * 640, py = ((e.clientY - r.top) / r.height) * 500;
      if (!map || px < box.left || px > box.right || py < box.top || py > box.bottom) return;
      const back = (axis, list, p) => list.reduce((best, w, i) => (Math.abs(axis.at(w) - p) < Math.abs(axis.at(list[best]) - p) ? i : best), 0);
      choose(back(x, map.alpha, px), back(y, map.beta, py), stay);
    }
    svg.addEventListener("pointermove", e => point(e, false));
    svg.addEventListener("click", e => point(e, true));
    svg.addEventListener("keydown", e => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
      if (!step || !map) return;
      e.preventDefault();
      const [i, j] = at ?? [nearest(map.alpha, 0), nearest(map.beta, 0)];
      if (at) choose(Math.min(map.alpha.length - 1, Math.max(0, i + step[0])), Math.min(map.beta.length - 1, Math.max(0, j + step[1])), true);
      else choose(i, j, true);
    });
    renew();
  }

  // Walk from G to 1-S: the eigenvalues where the dot is, and what else is known of that network.
  function walk(stage, spec) {
    for (const name in spec.map.columns) spec.map.columns[name] = numbers(spec.map.columns[name]);
    const [gg, gs, ss] = spec.products, square = a => (1 - a) ** 2 * gg + 2 * a * (1 - a) * gs + a * a * ss;
    let line = spec.lines[0], times = false;
    const controls = node(stage, "div", { class: "controls" });
    choice(controls, "curvature in", spec.lines.map(l => `${l.coordinates} coordinates`), i => { line = spec.lines[i]; renew(); });
    choice(controls, "measured as", ["λ", "λ · ‖θ‖²"], i => { times = i > 0; renew(); });
    const svg = node(stage, "svg", { viewBox: "0 0 720 330", role: "img" });
    const knob = node(node(stage, "label", { class: "wide" }, "from G to 1-S "), "input", { type: "range", min: 0, max: spec.alpha.length - 1, value: nearest(spec.alpha, 0), "aria-label": "place on the line, α" });
    const readout = node(stage, "output", { "aria-live": "polite" });
    const signed = a => a.toFixed(2).replace("-", "−");

    // Between the places where they were measured eigenvalues are interpolated.
    function eigenvalues(a) {
      const i = Math.max(1, line.alpha.findIndex(b => b >= a - 1e-9)), [b, c] = [line.alpha[i - 1], line.alpha[i]];
      const s = (a - b) / (c - b);
      return line.values[i].map((v, k) => (line.values[i - 1][k] * (1 - s) + v * s) * (times ? square(a) : 1));
    }

    let dot, bars, across, y;
    function renew() {
      svg.replaceChildren();
      const map = surface(svg, spec.map, spec.map.columns.loss, true, 290, 270, spec.solutions);
      across = map.x;
      dot = node(svg, "circle", { cy: map.y.at(0), r: 5, class: "stays" });
      const all = spec.alpha.flatMap(eigenvalues), box = { left: 440, right: 704, top: 12, bottom: 282 };
      const low = Math.min(...all), log = low > 0;
      y = axis(log ? low / 1.5 : Math.min(0, low), Math.max(...all) * 1.1, box.bottom, box.top, log);
      const ranks = axis(0.5, 5.5, box.left, box.right, false);
      axes(svg, { ...ranks, ticks: [1, 2, 3, 4, 5], name: k => `λ${"₁₂₃₄₅"[k - 1]}` }, y, box, "the mark is at G", times ? "λ · ‖θ‖²" : "eigenvalue λ");
      bars = [1, 2, 3, 4, 5].map(k => node(svg, "rect", { x: ranks.at(k) - 16, width: 32, fill: "#56B4E9" }));
      eigenvalues(0).forEach((v, k) => node(svg, "line", { x1: ranks.at(k + 1) - 20, x2: ranks.at(k + 1) + 20, y1: y.at(v), y2: y.at(v), stroke: spec.solutions[0].color, "stroke-width": 3 }));
      step();
    }

    function step() {
      const i = +knob.value, a = spec.alpha[i], found = eigenvalues(a), floor = 282;
      dot.setAttribute("cx", across.at(a));
      bars.forEach((bar, k) => { bar.setAttribute("y", y.at(found[k])); bar.setAttribute("height", Math.max(0, floor - y.at(found[k]))); });
      const known = Object.entries(spec.along).map(([name, values]) => `${spec.labels[name].replace(/ \[.*/, "")} ${digits(values[i])}${name === "error" ? " %" : ""}`);
      const words = `α = ${signed(a)}: λ₁${times ? " · ‖θ‖²" : ""} ${digits(found[0])}; ${known.join("; ")}; ‖θ‖² ${digits(square(a))}.`;
      readout.textContent = words;
      knob.setAttribute("aria-valuetext", words);
      svg.setAttribute("aria-label", `The loss over the plane through G and 1-S with a dot at α = ${signed(a)}, and the five largest eigenvalues there, in ${line.coordinates} coordinates: ${found.map(v => digits(v)).join(", ")}.`);
    }
    knob.addEventListener("input", step);
    renew();
  }

  // Prune by hand: where is the largest T whose loss is still within the tolerance?
  function threshold(stage, spec) {
    let point, at;
    const controls = node(stage, "div", { class: "controls" });
    choice(controls, "network", spec.points.map(p => p.name), begin);
    const svg = node(stage, "svg", { viewBox: "0 0 720 470", role: "img" });
    const knob = node(node(stage, "label", { class: "wide" }, "T "), "input", { type: "range", min: 0, value: 0, "aria-label": "threshold T" });
    const readout = node(stage, "output", { "aria-live": "polite" });
    const answer = node(stage, "button", { type: "button" }, "Show LOBSTER's T");
    let revealed = false;

    function begin(i) {
      point = spec.points[i];
      knob.max = point.threshold.length - 1;
      knob.value = at = 0;
      revealed = false;
      draw();
    }

    function draw() {
      const { threshold, kept, loss, edges, counts, own } = point, T = threshold[at], first = loss[0], bound = (1 + spec.tolerance) * first;
      svg.replaceChildren();
      const upper = { left: 62, right: 704, top: 10, bottom: 180 }, lower = { left: 62, right: 704, top: 262, bottom: 424 };
      const x = axis(edges[0], edges.at(-1), upper.left, upper.right, true), y = axis(0, Math.max(...counts) * 1.05, upper.bottom, upper.top, false);
      axes(svg, x, y, upper, "|w|, surviving parameters", "number");
      counts.forEach((count, i) => node(svg, "rect", { x: x.at(edges[i]), width: Math.max(1, x.at(edges[i + 1]) - x.at(edges[i]) - 0.5), y: y.at(count), height: upper.bottom - y.at(count), fill: edges[i + 1] <= T ? "#999999" : spec.color }));
      const share = i => 100 * (1 - kept[i] / kept[0]), top = Math.max(3 * bound, first * 3);
      const u = axis(0, 100, lower.left, lower.right, false), v = axis(first * 0.9, top, lower.bottom, lower.top, true);
      axes(svg, u, v, lower, "pruned of these parameters [%]", "validation loss");
      const line = (box, axisAt, attributes) => node(svg, "line", { x1: axisAt, x2: axisAt, y1: box.top, y2: box.bottom, stroke: "currentColor", ...attributes });
      node(svg, "line", { x1: lower.left, x2: lower.right, y1: v.at(bound), y2: v.at(bound), class: "level" });
      node(svg, "text", { x: lower.left + 6, y: v.at(bound) - 5, class: "small" }, `${(100 * spec.tolerance).toFixed(0)} % above the loss before`);
      const seen = loss.map((l, i) => [i, l]).filter(([i, l]) => l <= top && (revealed || i <= at));
      node(svg, "polyline", { points: seen.map(([i, l]) => `${u.at(share(i))},${v.at(l)}`).join(" "), fill: "none", stroke: spec.color, "stroke-width": 2 });
      if (loss[at] <= top) node(svg, "circle", { cx: u.at(share(at)), cy: v.at(loss[at]), r: 5, fill: spec.color });
      if (T >= edges[0]) line(upper, x.at(T), { "stroke-width": 2 });
      if (revealed) {
        line(upper, x.at(threshold[own]), { "stroke-dasharray": "5 3" });
        line(lower, u.at(share(own)), { "stroke-dasharray": "5 3" });
      }
      const within = loss[at] <= bound, words = `T = ${digits(T, 3)} takes ${(kept[0] - kept[at]).toLocaleString("en")} of ${kept[0].toLocaleString("en")}: validation loss ${loss[at].toFixed(4)}, ${(loss[at] / first).toFixed(3)} × that before, ${within ? "within" : "beyond"} the tolerance.`;
      const lobster = ` LOBSTER takes ${(kept[0] - kept[own]).toLocaleString("en")}, T = ${digits(threshold[own], 3)}: loss ${loss[own].toFixed(4)}, ${(loss[own] / first).toFixed(3)} ×.`;
      readout.textContent = words + (revealed ? lobster : "");
      svg.setAttribute("aria-label", `${point.name}: sizes of the surviving parameters, and the validation loss against the share that is pruned.`);
    }
    knob.addEventListener("input", () => { at = +knob.value; draw(); });
    answer.addEventListener("click", () => { revealed = true; draw(); });
    begin(0);
  }

  // Values by category, a panel for each setting of the knobs; or differences, place by place in the lists.
  function panels(stage, spec) {
    const set = spec.knobs.map(() => 0), hidden = new Set();
    const controls = node(stage, "div", { class: "controls" });
    spec.knobs.forEach((knob, k) => knob.options.length > 1 && choice(controls, knob.name, knob.options, i => { set[k] = i; renew(); }));
    const show = choice(controls, "show", [], i => { base = here.series[i]?.name; draw(); });
    const legend = node(stage, "div", { class: "controls", role: "group", "aria-label": "shown" });
    const svg = node(stage, "svg", { viewBox: "0 0 720 440", role: "img", tabindex: 0 });
    const readout = node(stage, "output", { "aria-live": "polite" });
    const box = { left: 58, right: 704, top: 14, bottom: 392 };
    let here, base, other, points = [], chosen = -1;

    function renew() {
      here = spec.panels.find(p => p.at.every((i, k) => i === set[k]));
      const arms = here?.series ?? [];
      offer(show, legend, here?.ylabel ?? "", arms, hidden, draw);
      show.value = arms.findIndex(a => a.name === base);
      show.parentNode.hidden = arms.length < 2;
      draw();
    }

    function draw() {
      svg.replaceChildren();
      [points, chosen] = [[], -1];
      readout.textContent = here ? "Point at the figure, or walk with the arrow keys." : "Not computed.";
      if (!here) return;
      other = here.series[show.value];
      const step = (box.right - box.left) / here.x.length, lined = typeof here.x[0] === "number";
      const along = axis(0, here.x.at(-1), box.left, box.right, false);
      const x = lined ? { ...along, at: i => along.at(here.x[i]) } : { at: i => box.left + (i + 0.5) * step, ticks: here.x.map((_, i) => i), name: i => here.x[i] };
      const shown = here.series.filter(s => s !== other && !hidden.has(s.name));
      const nth = (list, r) => list[list.length > 1 ? r : 0];
      shown.forEach((series, place) => {
        const beside = lined ? 0 : 0.7 * step * ((place + 0.5) / shown.length - 0.5);
        for (const [i, own] of Object.entries(series.points)) {
          const theirs = other ? other.points[i] ?? [null] : [0];
          const pairs = Array.from({ length: Math.max(own.length, theirs.length) }, (_, r) => [nth(own, r), nth(theirs, r)]);
          const values = pairs.filter(pair => pair.every(v => typeof v === "number")).map(([a, b]) => a - b);
          if (values.length) points.push({ series, i: +i, values, px: x.at(+i) + beside, ...interval(values, spec.t) });
        }
      });
      points.sort((a, b) => a.px - b.px);
      const levels = other ? [{ name: "no difference:", value: 0 }] : here.levels;
      const seen = [...points.flatMap(p => p.values), ...levels.map(l => l.value)];
      if (!points.length) seen.push(...here.series.flatMap(s => Object.values(s.points).flat()).filter(v => v !== null));
      const room = 0.08 * (Math.max(...seen) - Math.min(...seen) || 1), [low, high] = [Math.min(...seen) - room, Math.max(...seen) + room];
      const y = axis(low, high, box.bottom, box.top, false), clip = v => y.at(Math.min(high, Math.max(low, v)));
      const ylabel = other ? `minus ${other.name}: ${here.ylabel}` : here.ylabel;
      axes(svg, lined ? along : x, y, box, here.xlabel, ylabel);
      if (lined) for (const series of shown) {
        const path = points.filter(p => p.series === series).map(p => `${p.px},${y.at(p.mean)}`);
        node(svg, "polyline", { points: path.join(" "), fill: "none", stroke: series.color, "stroke-width": 2 });
      }
      for (const level of levels) {
        node(svg, "line", { x1: box.left, x2: box.right, y1: y.at(level.value), y2: y.at(level.value), class: "level" });
        node(svg, "text", { x: box.left + 6, y: y.at(level.value) - 5, class: "small" }, `${level.name} ${digits(level.value)}`);
      }
      for (const p of points) {
        p.py = y.at(p.mean);
        if (p.low !== undefined) node(svg, "line", { x1: p.px, x2: p.px, y1: clip(p.low), y2: clip(p.high), stroke: p.series.color, "stroke-width": 2 });
        if (p.n > 1) for (const v of p.values) mark(svg, "o", p.px, y.at(v), 1.6, { fill: p.series.color, opacity: 0.4 });
        if (!lined) mark(svg, p.series.marker, p.px, p.py, 4, { fill: p.series.color });
      }
      svg.setAttribute("aria-label", `${spec.knobs.map((knob, k) => knob.options[set[k]]).join(", ")}: ${ylabel} by ${here.xlabel} of ${shown.map(s => s.name).join("; ")}. The arrow keys walk from point to point.`);
    }

    function choose(i) {
      const p = points[i];
      if (!p || i === chosen) return;
      chosen = i;
      svg.querySelector(".ring")?.remove();
      node(svg, "circle", { cx: p.px, cy: p.py, r: 8, class: "ring" });
      const number = v => (other && v >= 0 ? "+" : "") + digits(v).replace("-", "−");
      const range = p.low === undefined ? "" : ` [${number(p.low)}, ${number(p.high)}], n = ${p.n}`;
      readout.textContent = `${p.series.name}, ${typeof here.x[p.i] === "number" ? "neuron " : ""}${here.x[p.i]}: ${number(p.mean)}${range}`;
    }
    svg.addEventListener("pointermove", e => {
      const r = svg.getBoundingClientRect(), mx = ((e.clientX - r.left) / r.width) * 720, my = ((e.clientY - r.top) / r.height) * 440;
      const far = i => (points[i].px - mx) ** 2 + (points[i].py - my) ** 2;
      choose(points.reduce((best, _, i) => (best >= 0 && far(best) <= far(i) ? best : i), -1));
    });
    svg.addEventListener("keydown", e => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
      if (!step || !points.length) return;
      e.preventDefault();
      choose(chosen < 0 ? 0 : chosen + step);
    });
    renew();
  }

  // Pictures, and a slider between them.
  function slides(stage, { name, slides }) {
    const label = node(stage, "label", { class: "wide" }, name + " ");
    const slider = node(label, "input", { type: "range", min: 0, max: slides.length - 1, value: 0, "aria-label": name });
    const said = node(label, "span"), picture = node(stage, "div", { "aria-live": "polite" });

    function draw() {
      const slide = slides[+slider.value];
      said.textContent = slide.name;
      slider.setAttribute("aria-valuetext", slide.name);
      picture.innerHTML = slide.is;
    }
    slider.addEventListener("input", draw);
    draw();
  }

  document.head.appendChild(document.createElement("style")).textContent = STYLE;
  return id => {
    const figure = document.getElementById(id), spec = JSON.parse(figure.querySelector("script").textContent);
    const stage = figure.querySelector("div");
    stage.replaceChildren();
    ({ curves, plane, walk, threshold, panels, slides })[spec.kind](stage, spec, id);
  };
})();
