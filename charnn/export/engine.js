// The int8 network and the sampler, with the bits that docs/int8.md and docs/sampling.md define.
//
// Math.fround (f) rounds each operation to float32; browsers compile it to float32 instructions.
// Shapes: V symbols, E features of a symbol, H units, D inputs of a layer.
"use strict";

const engine = (() => {
  const f = Math.fround;
  const LOG2_E = f(-1.44269502);
  const EXPONENTIAL = [0.00132647273, 0.00967151299, 0.0555073358, 0.240222424, 0.693147004, 1].map(f);
  const [P0, P1, P2, P3, P4, P5] = EXPONENTIAL;
  const WHOLE = 12582912; // 1.5 * 2**23: adding and subtracting it rounds to whole numbers
  const PER_STEP = f(0.00787401572);
  const EPSILON = f(0.00001);
  const LEAST = 2 ** -40; // the lowest n-gram probability whose logarithm is taken
  const TWO_TO = Float32Array.from({ length: 129 }, (_, i) => 2 ** (i - 64));
  const TABLE_NUMBERS = 1 << 24; // kept input products of layer 0: 64 MB at most
  const LANE = 2 ** 26; // one double holds two whole sums: low + high * LANE
  const LANE_COLUMNS = 2000; // 2000 * 127 * 127 is below LANE / 2

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  const floatsOf = (base64) => new Float32Array(bytesOf(base64).buffer);
  const WHOLES = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
  const wholesOf = ({ bytes, numbers }) => new WHOLES[bytes](bytesOf(numbers).buffer);

  function logistic(a) {
    a = a < 30 ? a : 30;
    a = a > -30 ? a : -30;
    const y = f(a * LOG2_E);
    const n = f(f(y + WHOLE) - WHOLE);
    const r = f(y - n);
    let p = f(f(P0 * r) + P1);
    p = f(f(p * r) + P2);
    p = f(f(p * r) + P3);
    p = f(f(p * r) + P4);
    p = f(f(p * r) + P5);
    return f(1 / f(1 + f(p * TWO_TO[n + 64])));
  }

  function tanh(a) {
    const s = logistic(f(a + a));
    return f(f(s + s) - 1);
  }

  // total and totalOfSquares keep eight running sums, which joined() adds in pairs.
  const lanes = new Float32Array(8);

  function joined() {
    const s = lanes;
    return f(
      f(f(s[0] + s[4]) + f(s[2] + s[6])) + f(f(s[1] + s[5]) + f(s[3] + s[7])),
    );
  }

  function total(x) {
    lanes.fill(0);
    for (let i = 0; i < x.length; i++) lanes[i & 7] = f(lanes[i & 7] + x[i]);
    return joined();
  }

  function totalOfSquares(x) {
    lanes.fill(0);
    for (let i = 0; i < x.length; i++) lanes[i & 7] = f(lanes[i & 7] + f(x[i] * x[i]));
    return joined();
  }

  function subtractMean(x) {
    const mean = f(total(x) * f(1 / x.length));
    for (let i = 0; i < x.length; i++) x[i] = f(x[i] - mean);
  }

  // Rounds x to steps of m / 127: q are whole numbers in [-127, 127].
  function quantise(x, m, q) {
    const t = m > 0 ? f(127 / m) : 0;
    for (let i = 0; i < x.length; i++) {
      let v = f(x[i] * t);
      v = v < 127 ? v : 127;
      v = v > -127 ? v : -127;
      q[i] = f(f(v + WHOLE) - WHOLE);
    }
  }

  class Matrix {
    constructor({ rows, columns, weights, scale, bias }) {
      this.rows = rows;
      this.columns = columns;
      this.scale = floatsOf(scale);
      this.bias = bias === null ? null : floatsOf(bias);
      const bytes = new Int8Array(bytesOf(weights).buffer);
      this.packed = columns <= LANE_COLUMNS;
      if (!this.packed) {
        this.weights = bytes;
        this.q = new Int32Array(columns);
        return;
      }
      // A double holds the weights of two rows, and so both sums exactly: twice as fast as 32-bit
      // integers.
      const pairs = (rows + 1) >> 1;
      this.weights = new Float64Array(pairs * columns);
      for (let pair = 0; pair < pairs; pair++) {
        const low = 2 * pair * columns;
        const high = low + columns;
        for (let i = 0; i < columns; i++) {
          const above = 2 * pair + 1 < rows ? bytes[high + i] : 0;
          this.weights[pair * columns + i] = bytes[low + i] + above * LANE;
        }
      }
      this.q = new Float64Array(columns);
      this.sums = new Int32Array(2 * pairs);
    }

    // Writes W q, times scale * k for each row, plus the bias if there is one, to out (rows,).
    product(k, out) {
      const sums = this.packed ? this.pairSums() : this.plainSums();
      const { rows, scale, bias } = this;
      if (bias === null) {
        for (let r = 0; r < rows; r++) out[r] = f(f(sums[r]) * f(scale[r] * k));
      } else {
        for (let r = 0; r < rows; r++) out[r] = f(bias[r] + f(f(sums[r]) * f(scale[r] * k)));
      }
    }

    pairSums() {
      const { columns, weights, q, sums } = this;
      const pairs = sums.length >> 1;
      let pair = 0;
      for (; pair + 3 < pairs; pair += 4) {
        let a = pair * columns;
        let b = a + columns;
        let c = b + columns;
        let d = c + columns;
        let s0 = 0;
        let s1 = 0;
        let s2 = 0;
        let s3 = 0;
        for (let i = 0; i < columns; i++) {
          const v = q[i];
          s0 += weights[a++] * v;
          s1 += weights[b++] * v;
          s2 += weights[c++] * v;
          s3 += weights[d++] * v;
        }
        split(s0, sums, 2 * pair);
        split(s1, sums, 2 * pair + 2);
        split(s2, sums, 2 * pair + 4);
        split(s3, sums, 2 * pair + 6);
      }
      for (; pair < pairs; pair++) {
        let sum = 0;
        for (let i = 0; i < columns; i++) sum += weights[pair * columns + i] * q[i];
        split(sum, sums, 2 * pair);
      }
      return sums;
    }

    plainSums() {
      const { rows, columns, weights, q } = this;
      const sums = (this.sums ??= new Int32Array(rows));
      for (let r = 0; r < rows; r++) {
        let sum = 0;
        for (let i = 0, at = r * columns; i < columns; i++, at++) {
          sum = (sum + Math.imul(weights[at], q[i])) | 0;
        }
        sums[r] = sum;
      }
      return sums;
    }

    // W norm(x) + b, for an x of mean 0.
    ofNorm(x, out) {
      let m = 0;
      for (let i = 0; i < x.length; i++) {
        const size = Math.abs(x[i]);
        if (size > m || size !== size) m = size;
      }
      const factor = f(
        1 / f(Math.sqrt(f(f(totalOfSquares(x) * f(1 / x.length)) + EPSILON))),
      );
      quantise(x, m, this.q);
      this.product(f(f(m * PER_STEP) * factor), out);
    }

    ofState(h, out) {
      quantise(h, 1, this.q);
      this.product(PER_STEP, out);
    }
  }

  function split(sum, sums, at) {
    const high = Math.round(sum / LANE);
    sums[at] = sum - high * LANE;
    sums[at + 1] = high;
  }

  // The equations of the cells: a is W x + b, u is U h; h, and c of an LSTM, change in place.
  const CELLS = {
    rnn(a, u, h) {
      for (let i = 0; i < h.length; i++) h[i] = tanh(f(a[i] + u[i]));
    },
    gru(a, u, h, c, biasHn) {
      const size = h.length;
      for (let i = 0; i < size; i++) {
        const j = i + size;
        const k = j + size;
        const r = logistic(f(a[i] + u[i]));
        const z = logistic(f(a[j] + u[j]));
        const n = tanh(f(a[k] + f(r * f(u[k] + biasHn[i]))));
        h[i] = f(n + f(z * f(h[i] - n)));
      }
    },
    lstm(a, u, h, c) {
      const size = h.length;
      for (let i = 0; i < size; i++) {
        const j = i + size;
        const k = j + size;
        const l = k + size;
        const input = logistic(f(a[i] + u[i]));
        const forget = logistic(f(a[j] + u[j]));
        const g = tanh(f(a[k] + u[k]));
        const output = logistic(f(a[l] + u[l]));
        c[i] = f(f(forget * c[i]) + f(input * g));
        h[i] = f(output * tanh(c[i]));
      }
    },
  };

  // A network: `state` returns the initial state, `step` reads a token and returns V logits, which
  // the next step overwrites.
  class Network {
    constructor(data) {
      this.vocabSize = data.vocab_size;
      this.size = data.hidden_size;
      this.width = data.embedding_size;
      this.cell = CELLS[data.cell];
      this.embedding = floatsOf(data.embedding);
      this.layers = data.layers.map((layer) => ({
        inputs: new Matrix(layer.inputs),
        recurrent: new Matrix(layer.recurrent),
        biasHn: layer.bias_hn === null ? null : floatsOf(layer.bias_hn),
        residual: layer.residual,
      }));
      this.head = new Matrix(data.head);
      const rows = this.layers[0].inputs.rows;
      this.a = new Float32Array(rows);
      this.u = new Float32Array(rows);
      this.x = new Float32Array(this.size);
      this.first = new Map();
      this.firstLimit = Math.floor(TABLE_NUMBERS / rows);
      this.logits = new Float32Array(this.vocabSize);
    }

    state() {
      return this.layers.map(() => [new Float32Array(this.size), new Float32Array(this.size)]);
    }

    // The value of a hidden unit, -1 to 1: h, or of an LSTM tanh(c).
    unit(state, layer, number) {
      const [h, c] = state[layer];
      return this.cell === CELLS.lstm ? Math.tanh(c[number]) : h[number];
    }

    step(token, state) {
      const { layers, x } = this;
      let before = this.embedding.subarray(token * this.width, (token + 1) * this.width);
      let a = this.read(token, before);
      for (let number = 0; number < layers.length; number++) {
        const { inputs, recurrent, biasHn, residual } = layers[number];
        const [h, c] = state[number];
        if (number > 0) {
          subtractMean(x);
          before = x;
          a = this.a;
          inputs.ofNorm(x, a);
        }
        recurrent.ofState(h, this.u);
        this.cell(a, this.u, h, c, biasHn);
        if (residual) for (let i = 0; i < x.length; i++) x[i] = f(before[i] + h[i]);
        else x.set(h);
      }
      subtractMean(x);
      this.head.ofNorm(x, this.logits);
      return this.logits;
    }

    // The input product of layer 0 depends on the symbol alone: computed once per symbol.
    read(token, embedding) {
      let a = this.first.get(token);
      if (a === undefined) {
        const keep = this.first.size < this.firstLimit;
        a = keep ? new Float32Array(this.a.length) : this.a;
        this.layers[0].inputs.ofNorm(embedding, a);
        if (keep) this.first.set(token, a);
      }
      return a;
    }
  }

  // N-grams of up to K symbols. The state is nodes (K,): the tree's nodes of the latest 0 to K - 1
  // symbols, -1 if the tree lacks one. Numbers are float64.
  class NGrams {
    constructor({ order, discounts, symbols, counts, children, dropped }) {
      this.order = order;
      this.symbols = wholesOf(symbols);
      const sizes = wholesOf(children);
      this.first = new Uint32Array(sizes.length + 1); // child of each context
      this.first[0] = 1;
      for (let i = 0; i < sizes.length; i++) this.first[i + 1] = this.first[i] + sizes[i];
      this.discount(discounts, wholesOf(counts), wholesOf(dropped));
    }

    // Computes the discounted probability of each child in its context (`given`), and the weight of
    // the shorter context (`rest`), with the operations of docs/int8.md in their order.
    discount(discounts, counts, dropped) {
      const { first } = this;
      this.given = new Float64Array(counts.length);
      this.rest = new Float64Array(dropped.length).fill(1);
      let node = 0;
      let stop = 1; // the end of the contexts of one length
      for (const [one, two, more] of discounts) {
        const below = first[stop];
        for (; node < stop; node++) {
          const end = first[node + 1] - 1;
          let total = dropped[node];
          for (let i = first[node] - 1; i < end; i++) total += counts[i];
          if (total === 0) continue;
          let rest = 0;
          for (let i = first[node] - 1; i < end; i++) {
            const size = counts[i];
            const less = size > 2 ? more : size === 2 ? two : size === 1 ? one : 0;
            this.given[i] = (size - less) / total;
            rest += less;
          }
          this.rest[node] = (rest + dropped[node]) / total;
        }
        stop = below;
      }
    }

    start() {
      const nodes = new Int32Array(this.order).fill(-1);
      nodes[0] = 0;
      return nodes;
    }

    // Moves each node to its child of a token, the longest context first.
    follow(nodes, token) {
      const { first, symbols } = this;
      for (let k = nodes.length - 1; k > 0; k--) {
        const node = nodes[k - 1];
        nodes[k] = -1;
        if (node < 0) continue;
        const end = first[node + 1];
        let low = first[node];
        let high = end;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (symbols[middle - 1] < token) low = middle + 1;
          else high = middle;
        }
        if (low < end && symbols[low - 1] === token) nodes[k] = low;
      }
    }

    // Writes the probabilities of the next symbol to p (V,), the longest context first.
    predict(nodes, p) {
      const { first, symbols, given, rest } = this;
      let left = 1;
      p.fill(0);
      for (let k = nodes.length - 1; k >= 0; k--) {
        const node = nodes[k];
        if (node < 0) continue;
        const end = first[node + 1] - 1;
        for (let i = first[node] - 1; i < end; i++) p[symbols[i]] += left * given[i];
        left *= rest[node];
      }
      const each = left / p.length;
      for (let v = 0; v < p.length; v++) p[v] += each;
    }
  }

  // The log-linear interpolation of a network and n-grams, with the methods of Network.
  class Mixture {
    constructor(network, ngrams, weights) {
      this.network = network;
      this.ngrams = ngrams;
      this.weights = weights;
      this.vocabSize = network.vocabSize;
      this.counted = new Float64Array(this.vocabSize);
    }

    state() {
      return { inner: this.network.state(), nodes: this.ngrams.start() };
    }

    step(token, { inner, nodes }) {
      const logits = this.network.step(token, inner);
      this.ngrams.follow(nodes, token);
      this.ngrams.predict(nodes, this.counted);
      this.mix(logits);
      return logits;
    }

    unit({ inner }, layer, number) {
      return this.network.unit(inner, layer, number);
    }

    mix(logits) {
      const { counted, weights } = this;
      for (let v = 0; v < counted.length; v++) {
        const p = counted[v] > LEAST ? counted[v] : LEAST;
        logits[v] = weights.network * logits[v] + weights.ngrams * Math.log(p);
      }
    }
  }

  // The predictors of a page's model: of the network alone, and with its n-grams if it has any.
  function predictors({ network, ngrams }) {
    const alone = new Network(network);
    if (ngrams === null) return { network: alone, mixture: alone };
    return { network: alone, mixture: new Mixture(alone, new NGrams(ngrams), ngrams.weights) };
  }

  // sfc32: uniform() is the next multiple of 2**-32 in [0, 1).
  class Generator {
    constructor(seed, index = 0) {
      this.a = 0;
      this.b = seed | 0;
      this.c = index | 0;
      this.counter = 1;
      for (let i = 0; i < 16; i++) this.next();
    }

    next() {
      const { a, b, c } = this;
      const t = (a + b + this.counter) | 0;
      this.counter = (this.counter + 1) | 0;
      this.a = b ^ (b >>> 9);
      this.b = (c + (c << 3)) | 0;
      this.c = (((c << 21) | (c >>> 11)) + t) | 0;
      return t >>> 0;
    }

    uniform() {
      return this.next() / 4294967296;
    }
  }

  // Samples one text: feed a prompt, then call choose() for each token.
  class Sampler {
    constructor(network, seed, { temperature = 1, topP = 1 } = {}) {
      this.network = network;
      this.generator = new Generator(seed);
      this.temperature = temperature;
      this.topP = topP;
      this.memory = network.state();
      this.values = new Float64Array(network.vocabSize);
      this.kept = new Uint8Array(network.vocabSize);
      this.order = Uint32Array.from({ length: network.vocabSize }, (_, i) => i);
      this.bits = 0;
    }

    feed(token) {
      this.logits = this.network.step(token, this.memory);
    }

    // The surprisal of a token that may follow, in bits; null before the first token.
    surprisal(token) {
      const { logits } = this;
      if (!logits) return null;
      const greatest = logits.reduce((a, b) => Math.max(a, b));
      const whole = logits.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0);
      return (Math.log(whole) - (logits[token] - greatest)) / Math.LN2;
    }

    // Chooses and reads a token; `bits` is its surprisal under the unfiltered model.
    choose() {
      const { values, kept, logits } = this;
      const size = values.length;
      let most = 0;
      for (let i = 0; i < size; i++) {
        const value = logits[i];
        if (!Number.isFinite(value)) throw new Error("The model’s output is not finite.");
        if (value > logits[most]) most = i;
        values[i] = value;
      }
      const greatest = values[most];
      let plain = 0;
      for (let i = 0; i < size; i++) plain += Math.exp(values[i] - greatest);

      if (this.temperature === 0) {
        kept.fill(0);
        kept[most] = 1;
      } else {
        kept.fill(1);
        if (this.temperature !== 1) {
          const divisor = Math.max(this.temperature, 1e-100);
          for (let i = 0; i < size; i++) values[i] /= divisor;
        }
      }
      if (this.topP !== 1) this.keepTop(most);

      const top = values[most];
      const whole = this.running((value) => value - top, Infinity);
      const token = this.running((value) => value - top, this.generator.uniform() * whole);
      this.bits = (Math.log(plain) - (logits[token] - greatest)) / Math.LN2;
      this.feed(token);
      return token;
    }

    // Adds the exponentials in the order of the ids; returns the id at which the sum first exceeds
    // `limit`, or else the sum.
    running(shifted, limit) {
      const { values, kept } = this;
      let sum = 0;
      for (let i = 0; i < values.length; i++) {
        if (kept[i]) sum += Math.exp(shifted(values[i]));
        if (sum > limit) return i;
      }
      return sum;
    }

    keepTop(most) {
      const { values, kept, order } = this;
      if (this.temperature === 0) return;
      const top = values[most];
      order.sort((i, j) => values[j] - values[i] || i - j);
      let whole = 0;
      for (const i of order) whole += Math.exp(values[i] - top);
      const enough = this.topP * whole;
      kept.fill(0);
      let sum = 0;
      for (const i of order) {
        kept[i] = 1;
        sum += Math.exp(values[i] - top);
        if (sum >= enough) break;
      }
    }
  }

  // Decodes UTF-8 byte by byte into whole characters; invalid bytes become \xNN.
  class Decoder {
    constructor() {
      this.held = [];
      this.missing = 0;
      this.low = 0x80;
      this.high = 0xbf;
    }

    push(bytes) {
      let text = "";
      for (const byte of bytes) text += this.byte(byte);
      return text;
    }

    byte(byte) {
      if (this.missing > 0) {
        if (byte < this.low || byte > this.high) return this.flush() + this.byte(byte);
        this.held.push(byte);
        this.low = 0x80;
        this.high = 0xbf;
        this.missing -= 1;
        if (this.missing > 0) return "";
        const [first, ...others] = this.held;
        this.held = [];
        const start = first & (0x3f >> others.length);
        return String.fromCodePoint(others.reduce((code, b) => (code << 6) | (b & 0x3f), start));
      }
      if (byte < 0x80) return String.fromCharCode(byte);
      if (byte < 0xc2 || byte > 0xf4) return escaped(byte);
      this.missing = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
      // No surrogates, no overlong forms, nothing above U+10FFFF.
      this.low = byte === 0xe0 ? 0xa0 : byte === 0xf0 ? 0x90 : 0x80;
      this.high = byte === 0xed ? 0x9f : byte === 0xf4 ? 0x8f : 0xbf;
      this.held = [byte];
      return "";
    }

    flush() {
      const text = this.held.map(escaped).join("");
      this.held = [];
      this.missing = 0;
      return text;
    }
  }

  function escaped(byte) {
    return `\\x${byte.toString(16).padStart(2, "0")}`;
  }

  // Encodes text. `encode` returns { ids, unknown }: `unknown` lists the characters without a symbol.
  class Tokenizer {
    constructor({ spelling, tokens, scores }) {
      this.spelling = spelling;
      this.bytes = tokens.map((token) => Uint8Array.from(token, (c) => c.charCodeAt(0)));
      this.scores = scores;
      this.ids = new Map();
      this.byteIds = [];
      tokens.forEach((token, id) => {
        const whole = new Decoder().push(this.bytes[id]);
        if (spelling === "characters" || (scores && scores[id] !== null)) this.ids.set(whole, id);
        else if (token.length === 1) this.byteIds[token.charCodeAt(0)] = id;
      });
    }

    encode(text) {
      const characters = Array.from(text);
      const half = (c) => c.length === 1 && c >= "\ud800" && c <= "\udfff";
      const known = (c) => (this.spelling === "characters" ? this.ids.has(c) : !half(c));
      const unknown = [...new Set(characters.filter((c) => !known(c)))];
      if (unknown.length > 0) return { ids: [], unknown };
      if (this.spelling === "characters") return { ids: characters.map((c) => this.ids.get(c)), unknown };
      if (this.spelling === "bytes") return { ids: Array.from(utf8(text)), unknown };
      const ids = [];
      for (const part of text.split(/([\n\u2581])/)) {
        if (part === "\n") ids.push(this.newline());
        else if (part === "\u2581") ids.push(...this.asBytes(part));
        else if (part) this.merge(Array.from(part), ids);
      }
      return { ids, unknown };
    }

    newline() {
      return this.ids.get("\n");
    }

    asBytes(text) {
      return Array.from(utf8(text), (byte) => this.byteIds[byte]);
    }

    // BPE as in sentencepiece: merges the best pair of neighbours first, the leftmost of equals.
    merge(parts, ids) {
      const scoreOf = (i) => {
        const id = i + 1 < parts.length ? this.ids.get(parts[i] + parts[i + 1]) : undefined;
        return id === undefined ? -Infinity : this.scores[id];
      };
      const scored = parts.map((_, i) => scoreOf(i));
      for (;;) {
        let best = 0;
        for (let i = 1; i < scored.length; i++) if (scored[i] > scored[best]) best = i;
        if (scored[best] === -Infinity) break;
        parts.splice(best, 2, parts[best] + parts[best + 1]);
        scored.splice(best, 1);
        scored[best] = scoreOf(best);
        if (best > 0) scored[best - 1] = scoreOf(best - 1);
      }
      for (const part of parts) {
        const id = this.ids.get(part);
        if (id === undefined) ids.push(...this.asBytes(part));
        else ids.push(id);
      }
    }
  }

  const utf8 = (text) => new TextEncoder().encode(text);

  return { predictors, Generator, Sampler, Decoder, Tokenizer };
})();
