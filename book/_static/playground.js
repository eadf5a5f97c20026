// LOBSTER and PSP-entropy in the page: an engine in float64 that does what psplib does (a test
// compares them), what it draws, and a bench for the entropies of two neurons. No dependency.
"use strict";

const psplib = (() => {
  // --- numbers drawn from a seed ------------------------------------------------------------------

  /** Mulberry32: uniform numbers in [0, 1), from a seed. */
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** One number from several: what is drawn for one purpose says nothing of another. */
  const derive = (...parts) =>
    parts.reduce((hash, part) => Math.imul(hash ^ (part + 0x9e3779b9), 0x85ebca6b) ^ (hash >>> 13), 7);

  function permutation(size, draw) {
    const order = Int32Array.from({ length: size }, (_, i) => i);
    for (let i = size - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  // --- points in the plane ------------------------------------------------------------------------

  const SIZES = { train: 400, validation: 400, test: 1000 };
  const TOYS = {
    moons: { classes: 2, noise: 0.2 },
    rings: { classes: 2, noise: 0.12 },
    spirals: { classes: 3, noise: 0.06 },
    clusters: { classes: 4, noise: 0.35 },
  };

  function curve(name, t, y, classes) {
    if (name === "moons") {
      const angle = Math.PI * (t + y);
      return [Math.cos(angle) + y, Math.sin(angle) + 0.5 * y];
    }
    if (name === "rings") {
      const angle = 2 * Math.PI * t, radius = 0.5 + 0.5 * y;
      return [radius * Math.cos(angle), radius * Math.sin(angle)];
    }
    if (name === "spirals") {
      const angle = 1.3 * Math.PI * Math.sqrt(t) + (2 * Math.PI * y) / classes;
      return [Math.sqrt(t) * Math.cos(angle), Math.sqrt(t) * Math.sin(angle)];
    }
    // Each class has two clusters, across from one another.
    const angle = Math.PI * (y / classes + (t < 0.5 ? 0 : 1));
    return [1.6 * Math.cos(angle), 1.6 * Math.sin(angle)];
  }

  /** Balanced classes of points, {x: (2 n), y: (n)} for each split, normalised by the first. */
  function toy(name, seed) {
    const { classes, noise } = TOYS[name];
    const draw = uniform(derive(Object.keys(TOYS).indexOf(name), seed));
    const normal = () =>
      Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
    const data = { name, classes };
    for (const [split, size] of Object.entries(SIZES)) {
      const x = new Float64Array(2 * size), y = new Int32Array(size);
      for (let i = 0; i < size; i++) {
        y[i] = i % classes;
        const point = curve(name, draw(), y[i], classes);
        x[2 * i] = point[0] + noise * normal();
        x[2 * i + 1] = point[1] + noise * normal();
      }
      data[split] = { x, y };
    }
    for (const axis of [0, 1]) {
      const values = data.train.x.filter((_, i) => i % 2 === axis);
      const mean = values.reduce((a, b) => a + b) / values.length;
      const sum = values.reduce((a, b) => a + (b - mean) ** 2, 0);
      const deviation = Math.sqrt(sum / (values.length - 1));
      for (const split of Object.keys(SIZES))
        for (let i = axis; i < data[split].x.length; i += 2)
          data[split].x[i] = (data[split].x[i] - mean) / deviation;
    }
    return data;
  }

  // --- a network ----------------------------------------------------------------------------------

  /** Layers of a ReLU network: how many inputs and outputs, and where weights and biases lie in the
   * flat vector of parameters, which is in PyTorch's order. */
  function layersOf(sizes) {
    let at = 0;
    return sizes.slice(1).map((outputs, l) => {
      const inputs = sizes[l], weights = at, biases = at + inputs * outputs;
      at = biases + outputs;
      return { inputs, outputs, weights, biases, end: at };
    });
  }

  /** PyTorch's default initialisation. */
  function initial(layers, seed) {
    const draw = uniform(derive(101, seed)), w = new Float64Array(layers.at(-1).end);
    for (const layer of layers)
      for (let i = layer.weights; i < layer.end; i++) w[i] = (2 * draw() - 1) / Math.sqrt(layer.inputs);
    return w;
  }

  /** The potentials of every layer, `n` rows each, the last the logits; `x` holds rows of inputs. */
  function forward(layers, w, x, n, z) {
    let below = x, isInput = true;
    layers.forEach((layer, l) => {
      const { inputs, outputs, weights, biases } = layer, out = z[l];
      for (let s = 0; s < n; s++)
        for (let o = 0; o < outputs; o++) {
          let sum = w[biases + o];
          const row = weights + o * inputs, from = s * inputs;
          for (let i = 0; i < inputs; i++) {
            const a = below[from + i];
            if (isInput || a > 0) sum += w[row + i] * a;
          }
          out[s * outputs + o] = sum;
        }
      below = out;
      isInput = false;
    });
    return z;
  }

  const memory = (layers, n) => layers.map((layer) => new Float64Array(n * layer.outputs));

  /** Logits become probabilities; gives the log of what they were divided by. */
  function softmax(logits, from, classes) {
    let most = -Infinity, sum = 0;
    for (let c = 0; c < classes; c++) most = Math.max(most, logits[from + c]);
    for (let c = 0; c < classes; c++) sum += logits[from + c] = Math.exp(logits[from + c] - most);
    for (let c = 0; c < classes; c++) logits[from + c] /= sum;
    return most + Math.log(sum);
  }

  /** Mean cross-entropy in nats, and error, over a split. */
  function score(layers, w, { x, y }) {
    const z = forward(layers, w, x, y.length, memory(layers, y.length)).at(-1);
    const classes = layers.at(-1).outputs;
    let loss = 0, wrong = 0;
    for (let s = 0; s < y.length; s++) {
      const from = s * classes, own = z[from + y[s]];
      let best = 0;
      for (let c = 1; c < classes; c++) if (z[from + c] > z[from + best]) best = c;
      wrong += best !== y[s];
      loss += softmax(z, from, classes) - own;
    }
    return { loss: loss / y.length, error: wrong / y.length };
  }

  /** The gradient of the mean loss over a minibatch. */
  function gradient(layers, w, x, y, g) {
    const n = y.length, z = forward(layers, w, x, n, memory(layers, n)), last = layers.length - 1;
    const classes = layers[last].outputs;
    let delta = z[last];
    for (let s = 0; s < n; s++) {
      softmax(delta, s * classes, classes);
      delta[s * classes + y[s]] -= 1;
    }
    for (let i = 0; i < delta.length; i++) delta[i] /= n;
    g.fill(0);
    for (let l = last; l >= 0; l--) {
      const { inputs, outputs, weights, biases } = layers[l], below = l ? z[l - 1] : x;
      const passed = new Float64Array(n * inputs);
      for (let s = 0; s < n; s++)
        for (let o = 0; o < outputs; o++) {
          const d = delta[s * outputs + o];
          if (d === 0) continue;
          g[biases + o] += d;
          const row = weights + o * inputs, from = s * inputs;
          for (let i = 0; i < inputs; i++) {
            const a = below[from + i];
            if (l && !(a > 0)) continue;
            g[row + i] += d * a;
            passed[from + i] += d * w[row + i];
          }
        }
      delta = passed;
    }
  }

  // --- PSP-entropy --------------------------------------------------------------------------------

  const bits = (p) => (p > 0 && p < 1 ? -p * Math.log2(p) - (1 - p) * Math.log2(1 - p) : 0);

  /** Eq. (5) of every hidden neuron, in bits: the entropy of its state given the class, summed over
   * the classes; a Float64Array for each layer. */
  function entropies(layers, w, { x, y }, classes) {
    const n = y.length, z = forward(layers, w, x, n, memory(layers, n));
    const samples = new Float64Array(classes);
    for (const c of y) samples[c]++;
    return layers.slice(0, -1).map(({ outputs }, l) => {
      const active = new Float64Array(classes * outputs);
      for (let s = 0; s < n; s++)
        for (let o = 0; o < outputs; o++)
          if (z[l][s * outputs + o] > 0) active[y[s] * outputs + o]++;
      const found = new Float64Array(outputs);
      for (let c = 0; c < classes; c++)
        for (let o = 0; o < outputs; o++) found[o] += bits(active[c * outputs + o] / samples[c]);
      return found;
    });
  }

  /** Entropies in bits of the states (0 or 1) of two neurons on some images of one class. */
  function pair(first, second) {
    const n = first.length, cells = [0, 0, 0, 0];
    first.forEach((s, i) => cells[2 * s + second[i]]++);
    const joint = cells.reduce((h, m) => h - (m ? (m / n) * Math.log2(m / n) : 0), 0);
    const f1 = (cells[2] + cells[3]) / n, f2 = (cells[1] + cells[3]) / n;
    const h1 = bits(f1), h2 = bits(f2);
    return { f1, f2, agree: (cells[0] + cells[3]) / n, h1, h2, joint, mutual: h1 + h2 - joint };
  }

  // --- LOBSTER ------------------------------------------------------------------------------------

  const BATCH = 20;

  /** The largest of the magnitudes `sizes` for which loss(T) <= bound, by bisection over ranks; 0 if
   * there is none. */
  function largestThreshold(sizes, loss, bound) {
    const ranked = [...new Set(sizes)].sort((a, b) => a - b);
    let within = 0, beyond = ranked.length;
    while (beyond - within > 1) {
      const middle = (within + beyond) >> 1;
      if (loss(ranked[middle - 1]) <= bound) within = middle;
      else beyond = middle;
    }
    return within ? ranked[within - 1] : 0;
  }

  /** A network in training: by LOBSTER, or with `shrinkage` 0 and endless patience by SGD alone.
   *
   * `knobs`: learningRate, shrinkage (lambda), tolerance (TWT), patience (PWE in epochs); they may
   * change at any time. `order(epoch)` is the order of the samples. `history`: a row an epoch. */
  class Trial {
    constructor({ data, layers, weights, mask, knobs, order }) {
      Object.assign(this, { data, layers, knobs, order });
      this.mask = mask ? Uint8Array.from(mask) : new Uint8Array(weights.length).fill(1);
      this.weights = weights.map((w, i) => w * this.mask[i]);
      this.g = new Float64Array(weights.length);
      this.x = new Float64Array(2 * BATCH);
      this.epoch = 0;
      this.history = [];
      this.wait();
    }

    /** A new wait for a plateau begins. */
    wait() {
      this.best = { loss: Infinity, weights: this.weights.slice() };
      this.bad = 0;
    }

    get kept() {
      return this.mask.reduce((a, b) => a + b);
    }

    get isAtPlateau() {
      return this.bad >= this.knobs.patience;
    }

    /** An epoch of SGD, w <- w - lr g and then w <- w - lambda w max(0, 1 - |g|), minibatch by
     * minibatch; its validation loss is bad if not below 1.01 x the best. */
    train() {
      const { layers, weights, mask, g, knobs, data } = this, { x, y } = data.train;
      const order = this.order(++this.epoch);
      for (let at = 0; at < y.length; at += BATCH) {
        const rows = order.slice(at, at + BATCH), labels = Array.from(rows, (row) => y[row]);
        rows.forEach((row, i) => this.x.set(x.subarray(2 * row, 2 * row + 2), 2 * i));
        gradient(layers, weights, this.x, labels, g);
        for (let i = 0; i < weights.length; i++) {
          if (!mask[i]) continue;
          const w = weights[i] - knobs.learningRate * g[i];
          weights[i] = w + knobs.shrinkage * w * (Math.min(Math.abs(g[i]), 1) - 1);
        }
      }
      const found = score(layers, weights, data.validation);
      const isGood = found.loss < 1.01 * this.best.loss;
      if (found.loss < this.best.loss) this.best = { loss: found.loss, weights: weights.slice() };
      this.bad = isGood ? 0 : this.bad + 1;
      this.history.push({ epoch: this.epoch, ...found, kept: this.kept, threshold: 0 });
    }

    /** The threshold that a pruning of these weights would take: the largest that raises the
     * validation loss by at most the share `tolerance`. */
    threshold(weights = this.weights) {
      const { layers, mask, data, knobs } = this;
      const lossWithout = (size) =>
        score(layers, weights.map((w) => (Math.abs(w) > size ? w : 0)), data.validation).loss;
      const bound = (1 + knobs.tolerance) * score(layers, weights, data.validation).loss;
      return largestThreshold(weights.map(Math.abs).filter((_, i) => mask[i]), lossWithout, bound);
    }

    /** Return to the best weights and prune them; gives T. */
    prune() {
      const best = this.best.weights, size = this.threshold(best);
      for (let i = 0; i < best.length; i++) {
        if (Math.abs(best[i]) <= size) this.mask[i] = 0;
        this.weights[i] = this.mask[i] ? best[i] : 0;
      }
      this.wait();
      const row = this.history.at(-1);
      if (row) Object.assign(row, { threshold: size, kept: this.kept });
      return size;
    }

    /** An epoch, and at a plateau a pruning. */
    step() {
      this.train();
      if (this.isAtPlateau) this.prune();
    }

    entropies() {
      return entropies(this.layers, this.weights, this.data.test, this.data.classes);
    }

    scores(split) {
      return score(this.layers, this.weights, this.data[split]);
    }
  }

  const shuffled = (size, seed) => (epoch) => permutation(size, uniform(derive(202, seed, epoch)));

  return { TOYS, BATCH, toy, layersOf, initial, forward, memory, softmax, pair, Trial, shuffled };
})();
globalThis.psplib = psplib;

// --- the page -------------------------------------------------------------------------------------

globalThis.document?.addEventListener("DOMContentLoaded", () => {
  // Okabe and Ito's colours, as in the figures: G, 1-S; then the classes, each with a shape.
  const GRADUAL = "#0072b2", ONE_SHOT = "#d55e00";
  const CLASSES = [
    { color: [86, 180, 233], name: "blue circles" },
    { color: [230, 159, 0], name: "orange triangles" },
    { color: [0, 158, 115], name: "green squares" },
    { color: [204, 121, 167], name: "purple diamonds" },
  ];
  const REACH = 2.6, CELLS = 56, WIDTH = 16;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties))
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const ink = () => getComputedStyle(document.body).color;

  /** A canvas drawn in CSS pixels, sharp on every screen, with words for who does not see it. */
  function board(width, height) {
    const canvas = make("canvas", { role: "img" });
    canvas.style.aspectRatio = `${width} / ${height}`;
    return {
      canvas,
      draw(words, paint) {
        const scale = devicePixelRatio || 1;
        canvas.width = width * scale;
        canvas.height = height * scale;
        canvas.setAttribute("aria-label", words);
        const c = canvas.getContext("2d");
        c.scale(scale, scale);
        c.font = "12px sans-serif";
        c.fillStyle = c.strokeStyle = ink();
        paint(c);
      },
    };
  }

  function shape(c, kind, x, y, r) {
    c.beginPath();
    if (kind === 0) c.arc(x, y, r, 0, 7);
    else {
      const corners = [null, [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]], [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
        [[0, -1.3], [1, 0], [0, 1.3], [-1, 0]]][kind];
      corners.forEach(([a, b], i) => c[i ? "lineTo" : "moveTo"](x + r * a, y + r * b));
      c.closePath();
    }
    c.fill();
    c.stroke();
  }

  const short = (value, digits = 3) => (value === 0 ? "0" : String(Number(value.toPrecision(digits))));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  // --- what is seen of one network --------------------------------------------------------------

  const GRID = new Float64Array(2 * CELLS * CELLS).map((_, i) => {
    const cell = i >> 1, at = i % 2 ? CELLS - 1 - Math.floor(cell / CELLS) : cell % CELLS;
    return REACH * ((2 * at + 1) / CELLS - 1);
  });

  /** Decision regions with the points, and where in the plane each neuron is on. */
  class View {
    constructor(title, color) {
      this.decision = board(300, 300);
      this.words = make("p", { className: "pg-words" });
      this.maps = [0, 1].map((l) =>
        Array.from({ length: WIDTH }, (_, i) => make("canvas", { width: CELLS, height: CELLS, role: "img" })));
      this.element = make("section", { className: "pg-net" },
        make("h2", { className: "pg-title", style: `--line: ${color}` }, title), this.decision.canvas, this.words,
        ...this.maps.map((maps, l) => make("div", {},
          make("p", { className: "pg-caption" }, `Layer ${l + 1}: where each neuron is on, and its H(z) in bits`),
          make("div", { className: "pg-maps" },
            ...maps.map((map) => make("div", {}, map, make("span")))))));
    }

    draw(trial, found) {
      const { layers, weights, data } = trial, n = CELLS * CELLS;
      const z = psplib.forward(layers, weights, GRID, n, psplib.memory(layers, n));
      this.states(z, found, trial);
      const image = new ImageData(CELLS, CELLS), logits = z.at(-1);
      for (let s = 0; s < n; s++) {
        psplib.softmax(logits, s * data.classes, data.classes);
        for (let k = 0; k < 3; k++) {
          let sum = 0;
          for (let c = 0; c < data.classes; c++) sum += logits[s * data.classes + c] * CLASSES[c].color[k];
          image.data[4 * s + k] = sum;
        }
        image.data[4 * s + 3] = 255;
      }
      const small = new OffscreenCanvas(CELLS, CELLS);
      small.getContext("2d").putImageData(image, 0, 0);
      const { loss, error } = trial.scores("test");
      this.words.textContent =
        `Epoch ${trial.epoch}: test error ${(100 * error).toFixed(1)} %, test loss ${loss.toFixed(3)}; ` +
        `${trial.kept} of ${weights.length} parameters survive; mean H(z) ${found.map((h) => mean(h).toFixed(2)).join(", ")} bits.`;
      this.decision.draw(`Decision regions with the training points. ${this.words.textContent}`, (c) => {
        c.globalAlpha = 0.45;
        c.drawImage(small, 0, 0, 300, 300);
        c.globalAlpha = 1;
        const { x, y } = data.train, place = (v) => 150 * (1 + v / REACH);
        c.lineWidth = 0.6;
        c.strokeStyle = "#222";
        for (let i = 0; i < y.length; i++) {
          c.fillStyle = `rgb(${CLASSES[y[i]].color})`;
          shape(c, y[i], place(x[2 * i]), 300 - place(x[2 * i + 1]), 3);
        }
      });
    }

    states(z, found, trial) {
      const [r, g, b] = ink().match(/\d+/g).map(Number);
      this.maps.forEach((maps, l) => maps.forEach((map, i) => {
        const image = new ImageData(CELLS, CELLS), h = found[l][i];
        let on = 0;
        for (let s = 0; s < CELLS * CELLS; s++)
          if (z[l][s * WIDTH + i] > 0) {
            on++;
            image.data.set([r, g, b, 170], 4 * s);
          }
        map.getContext("2d").putImageData(image, 0, 0);
        map.setAttribute("aria-label",
          `Layer ${l + 1}, neuron ${i + 1}: on in ${Math.round((100 * on) / CELLS ** 2)} % of the square`);
        const caption = map.nextSibling;
        caption.textContent = h.toFixed(2);
        caption.style.setProperty("--share", h / trial.data.classes);
      }));
    }
  }

  // --- charts -----------------------------------------------------------------------------------

  const W = 340, H = 210, BOX = { left: 44, right: W - 8, top: 12, bottom: H - 34 };

  const scale = (low, high, from, to, f = (v) => v) => (value) =>
    from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from);

  function axes(c, xLabel, xTicks, yTicks) {
    c.lineWidth = 1;
    for (const [at, label] of yTicks) {
      c.globalAlpha = 0.15;
      c.fillRect(BOX.left, at, BOX.right - BOX.left, 1);
      c.globalAlpha = 1;
      c.textAlign = "right";
      c.fillText(label, BOX.left - 6, at + 4);
    }
    c.textAlign = "center";
    for (const [at, label] of xTicks) c.fillText(label, at, BOX.bottom + 15);
    c.fillText(xLabel, (BOX.left + BOX.right) / 2, H - 4);
  }

  function line(c, points, color) {
    c.strokeStyle = color;
    c.lineWidth = 1.8;
    c.beginPath();
    points.forEach(([a, b], i) => c[i ? "lineTo" : "moveTo"](a, b));
    c.stroke();
  }

  const decade = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];

  function drawLoss(chart, trials) {
    const rows = trials.flatMap((t) => t.history), losses = rows.map((r) => r.loss);
    const low = 0.9 * Math.min(0.5, ...losses), high = 1.1 * Math.max(1, ...losses);
    const x = scale(0, Math.max(20, ...rows.map((r) => r.epoch)), BOX.left, BOX.right);
    const y = scale(low, high, BOX.bottom, BOX.top, Math.log);
    const prunings = trials[0].history.filter((r) => r.threshold);
    const words = `Validation loss by epoch${losses.length ? `, now ${losses.at(-1).toFixed(3)}` : ""}; prunings after epochs ${prunings.map((r) => r.epoch).join(", ") || "none yet"}.`;
    chart.draw(words, (c) => {
      const last = Math.max(20, ...rows.map((r) => r.epoch)), step = [5, 10, 20, 50, 100, 200, 500].find((s) => last / s <= 6) ?? 1000;
      const ticks = Array.from({ length: Math.floor(last / step) + 1 }, (_, i) => [x(i * step), i * step]);
      axes(c, "epoch (dotted: a pruning)", ticks, decade.filter((v) => v > low && v < high).map((v) => [y(v), v]));
      c.setLineDash([2, 3]);
      c.lineWidth = 1;
      for (const row of prunings) {
        c.beginPath();
        c.moveTo(x(row.epoch), BOX.top);
        c.lineTo(x(row.epoch), BOX.bottom);
        c.stroke();
      }
      c.setLineDash([]);
      trials.forEach((t, i) => line(c, t.history.map((r) => [x(r.epoch), y(r.loss)]), [GRADUAL, ONE_SHOT][i]));
    });
  }

  function drawHistogram(chart, trial) {
    const sizes = Array.from(trial.weights.filter((_, i) => trial.mask[i]), Math.abs);
    const T = trial.threshold(), LOW = -3, HIGH = 1, BINS = 40;
    const bins = new Array(BINS).fill(0);
    for (const size of sizes) {
      const share = (Math.log10(Math.max(size, 1e-9)) - LOW) / (HIGH - LOW);
      bins[Math.min(BINS - 1, Math.max(0, Math.floor(share * BINS)))]++;
    }
    const x = scale(LOW, HIGH, BOX.left, BOX.right), most = Math.max(5, ...bins);
    const y = scale(0, most, BOX.bottom, BOX.top), below = sizes.filter((s) => s <= T).length;
    chart.draw(
      `Histogram of ${sizes.length} surviving parameters by size; a pruning now would take ${below}, up to T = ${short(T)}.`,
      (c) => {
        const step = [1, 2, 5, 10, 20, 50, 100, 200].find((s) => most / s <= 5) ?? 500;
        axes(c, "|w|, and T: what a pruning would take now", [-3, -2, -1, 0, 1].map((d) => [x(d), `${10 ** d}`]),
          Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => [y(i * step), i * step]));
        bins.forEach((count, i) => {
          const from = LOW + (i * (HIGH - LOW)) / BINS, isTaken = T && from + 0.06 < Math.log10(T);
          c.fillStyle = isTaken ? "#888" : GRADUAL;
          c.fillRect(x(from) + 0.5, y(count), (BOX.right - BOX.left) / BINS - 1, BOX.bottom - y(count));
        });
        if (T) {
          const at = x(Math.max(LOW, Math.log10(T)));
          line(c, [[at, BOX.top], [at, BOX.bottom]], ink());
          c.fillStyle = ink();
          c.textAlign = at > W / 2 ? "right" : "left";
          c.fillText(` T = ${short(T)} takes ${below} `, at, BOX.top + 8);
        }
      });
  }

  function drawEntropy(chart, nets, classes) {
    const y = scale(0, classes, BOX.bottom, BOX.top), wide = (BOX.right - BOX.left - 14) / (2 * WIDTH);
    const words = nets.map((found, k) => `${["G", "1-S"][k]}: ${found.map((h, l) => `layer ${l + 1} ${mean(h).toFixed(2)}`).join(", ")}`);
    chart.draw(`PSP-entropy of each neuron; means in bits, ${words.join("; ")}.`, (c) => {
      const start = (l) => BOX.left + l * (WIDTH * wide + 14);
      axes(c, "neuron (line: mean of the layer)", [0, 1].map((l) => [start(l) + (WIDTH * wide) / 2, `layer ${l + 1}`]),
        Array.from({ length: classes + 1 }, (_, i) => [y(i), i ? `${i}` : "0 bits"]));
      nets.forEach((found, k) => found.forEach((h, l) => {
        c.fillStyle = [GRADUAL, ONE_SHOT][k];
        const bar = (wide - 2) / nets.length;
        h.forEach((v, i) => c.fillRect(start(l) + i * wide + 1 + k * bar, y(v), bar, BOX.bottom - y(v)));
        line(c, [[start(l), y(mean(h))], [start(l) + WIDTH * wide, y(mean(h))]], c.fillStyle);
      }));
    });
  }

  // --- the playground ---------------------------------------------------------------------------

  function slider(name, label, values, index, changed) {
    const shown = make("b"), input = make("input", { type: "range", min: 0, max: values.length - 1, value: index });
    const tell = () => {
      shown.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
    };
    input.addEventListener("input", () => (tell(), changed()));
    tell();
    return { element: make("label", {}, make("span", {}, label, " ", shown), input), get value() { return values[input.value]; } };
  }

  function play(root) {
    let trial, again, timer = null;
    const knobs = {};
    const turn = () => {
      for (const [name, control] of Object.entries(sliders)) knobs[name] = control.value;
      if (trial) redraw();
    };
    const sliders = {
      shrinkage: slider("λ", "λ shrinks:", [0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], 4, turn),
      tolerance: slider("TWT", "TWT, may cost:", [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1], 2, turn),
      patience: slider("PWE", "PWE, epochs of waiting:", [1, 2, 3, 5, 10, 20], 3, turn),
      learningRate: slider("η", "learning rate:", [0.03, 0.1, 0.2, 0.3, 0.5, 1], 3, turn),
    };
    const toy = make("select", {}, ...Object.keys(psplib.TOYS).map((name) =>
      make("option", { value: name }, `${name} (${psplib.TOYS[name].classes} classes)`)));
    const seed = make("input", { type: "number", min: 0, max: 9999, value: 0 });
    const speed = make("select", {}, ...[["4", "4 epochs a second"], ["15", "15 a second"], ["1000", "as fast as it can"]].map(
      ([value, label]) => make("option", { value, selected: value === "15" }, label)));
    const button = (label, act) => make("button", { type: "button", onclick: act }, label);
    const buttons = {
      play: button("Play", () => (timer ? pause() : start())),
      step: button("Step", () => (pause(), step(), redraw())),
      prune: button("Prune now", prune),
      rewind: button("Rewind the mask: train 1-S", rewind),
      restart: button("Start again", restart),
    };
    const status = make("p", { className: "pg-status", role: "status" });
    const legend = make("p", { className: "pg-caption" });
    const g = new View("G: gradual, LOBSTER at work", GRADUAL),
      s = new View("1-S: the same mask, from the initial values", ONE_SHOT);
    const charts = [board(W, H), board(W, H), board(W, H)];
    const titles = ["Validation loss [nats]", "Sizes of the surviving parameters", "PSP-entropy H(z) by neuron"];
    root.replaceChildren(
      make("div", { className: "pg-knobs" }, make("label", {}, "data ", toy), make("label", {}, "seed ", seed),
        ...Object.values(sliders).map((k) => k.element), make("label", {}, "speed ", speed)),
      make("div", { className: "pg-buttons" }, ...Object.values(buttons)), status, legend,
      make("div", { className: "pg-nets" }, g.element, s.element),
      make("div", { className: "pg-charts" }, ...charts.map((chart, i) =>
        make("section", {}, make("h2", { className: "pg-title" }, titles[i]), chart.canvas))));

    function restart() {
      pause();
      const data = psplib.toy(toy.value, Number(seed.value)), layers = psplib.layersOf([2, WIDTH, WIDTH, data.classes]);
      const begin = psplib.initial(layers, Number(seed.value));
      trial = new psplib.Trial({ data, layers, weights: begin, knobs, order: psplib.shuffled(data.train.y.length, Number(seed.value)) });
      trial.begin = begin;
      again = null;
      legend.textContent = `Classes: ${CLASSES.slice(0, data.classes).map((c) => c.name).join(", ")}. The network: 2-${WIDTH}-${WIDTH}-${data.classes}, ${begin.length} parameters.`;
      say("Ready. Press Play.");
      redraw();
    }

    function rewind() {
      if (again) {
        again = null;
        say("LOBSTER goes on.");
      } else {
        trial.weights.set(trial.best.weights.map((w, i) => w * trial.mask[i]));
        again = new psplib.Trial({
          data: trial.data, layers: trial.layers, weights: trial.begin, mask: trial.mask,
          knobs: { get learningRate() { return knobs.learningRate; }, shrinkage: 0, tolerance: 0, patience: Infinity },
          order: psplib.shuffled(trial.data.train.y.length, Number(seed.value) + 1),
        });
        say(`The ${trial.kept} survivors are back at their initial values. Press Play to train them, without LOBSTER.`);
      }
      redraw();
    }

    function prune() {
      const before = trial.kept, T = trial.prune();
      say(`Pruned ${before - trial.kept} parameters, up to T = ${short(T)}; ${trial.kept} are left.`);
      redraw();
    }

    function step() {
      const one = again ?? trial, before = one.kept;
      one.step();
      if (one.kept < before) say(`Epoch ${one.epoch}: a plateau; ${before - one.kept} parameters pruned, ${one.kept} are left.`);
    }

    const say = (words) => (status.textContent = words);

    function start() {
      buttons.play.textContent = "Pause";
      let drawn = 0;
      timer = setInterval(() => {
        const until = performance.now() + 12;
        do step(); while (speed.value === "1000" && performance.now() < until);
        // Who wants less motion sees a picture a second.
        if (!calm.matches || performance.now() > drawn + 1000) {
          redraw();
          drawn = performance.now();
        }
      }, 1000 / Math.min(30, Number(speed.value)));
    }

    function pause() {
      if (!timer) return;
      clearInterval(timer);
      timer = null;
      buttons.play.textContent = "Play";
      redraw();
    }

    function redraw() {
      const nets = again ? [trial, again] : [trial], found = nets.map((t) => t.entropies());
      s.element.hidden = !again;
      [g, s].slice(0, nets.length).forEach((view, k) => view.draw(nets[k], found[k]));
      drawLoss(charts[0], nets);
      drawHistogram(charts[1], trial);
      drawEntropy(charts[2], found, trial.data.classes);
      buttons.prune.disabled = Boolean(again);
      buttons.rewind.textContent = again ? "Back to G" : "Rewind the mask: train 1-S";
    }

    for (const control of [toy, seed]) control.addEventListener("change", restart);
    speed.addEventListener("change", () => timer && (pause(), start()));
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    turn();
    restart();
  }

  // --- the bench: two neurons, one class, twenty images ------------------------------------------

  function bench(root) {
    const N = 20, states = [0, 1].map((k) => Uint8Array.from({ length: N }, (_, i) => (k ? i % 2 : i < 10) ? 1 : 0));
    const rows = states.map((own, k) => Array.from({ length: N }, (_, i) => make("button", {
      type: "button", "aria-label": `neuron ${k + 1}, image ${i + 1}`,
      onclick: () => ((own[i] = 1 - own[i]), show()),
    })));
    const preset = (label, first, second) => make("button", { type: "button", onclick: () => {
      states[0].forEach((_, i) => ((states[0][i] = first(i)), (states[1][i] = second(i, first(i)))));
      show();
    } }, label);
    const half = (i) => Number(i < 10);
    const areas = make("div", { className: "pg-areas" }), words = make("p", { role: "status" });
    root.replaceChildren(
      make("div", { className: "pg-buttons" },
        preset("Two free coins", half, (i) => i % 2), preset("The same", half, (_, s) => s),
        preset("Opposites", half, (_, s) => 1 - s), preset("Rarely on", (i) => Number(i < 2), (i) => Number(i === 1)),
        preset("The class decides", () => 1, () => 0)),
      ...rows.map((row, k) => make("div", { className: "pg-row", role: "group", "aria-label": `neuron ${k + 1}` },
        make("span", {}, `neuron ${k + 1}`), ...row)),
      areas, words);

    function show() {
      rows.forEach((row, k) => row.forEach((b, i) => b.setAttribute("aria-pressed", states[k][i] === 1)));
      const p = psplib.pair(states[0], states[1]), part = (size, name) =>
        make("div", { className: `pg-area ${name}`, style: `width: ${50 * Math.max(0, size)}%` });
      // The joint entropy is the whole: what only one tells, what both tell, what only the other tells.
      areas.replaceChildren(
        ...[["H₁", [["first", p.h1]]], ["H₂", [["gap", p.h1 - p.mutual], ["second", p.h2]]],
          ["joint", [["first", p.h1 - p.mutual], ["both", p.mutual], ["second", p.h2 - p.mutual]]]].map(
          ([name, parts]) => make("div", { className: "pg-bar" }, make("span", {}, name),
            make("div", {}, ...parts.map(([kind, size]) => part(size, kind))))));
      words.textContent =
        `On in ${Math.round(N * p.f1)} and ${Math.round(N * p.f2)} of ${N} images: f₁ = ${p.f1.toFixed(2)}, f₂ = ${p.f2.toFixed(2)}. ` +
        `H₁ = ${p.h1.toFixed(3)}, H₂ = ${p.h2.toFixed(3)}, mutual ${Math.abs(p.mutual).toFixed(3)}; ` +
        `joint = H₁ + H₂ − mutual = ${p.joint.toFixed(3)} bits. The two agree on a share of ${p.agree.toFixed(2)}.`;
    }
    show();
  }

  for (const [id, begin] of [["playground", play], ["bench", bench]]) {
    const root = document.getElementById(id);
    if (root) begin(root);
  }
});
