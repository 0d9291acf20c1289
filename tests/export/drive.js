// Runs the engine of an exported page outside a browser: node drive.js PAGE < JOB > RESULT
"use strict";

const { readFileSync } = require("node:fs");

const html = readFileSync(process.argv[2], "utf-8");
const [data] = html.match(/(?<=<script type="application\/json" id="model">)[^]*?(?=<\/script>)/);
const code = html.match(/(?<=<script>)[^]*?(?=<\/script>)/)[0];
const engine = new Function(`${code}\nreturn engine;`)();
const model = JSON.parse(data);
const job = JSON.parse(readFileSync(0, "utf-8"));
const models = engine.predictors(model);
const tokenizer = new engine.Tokenizer(model.tokenizer);

// The bits of floats, so that NaN and -0 are compared too.
const bitsOf = (logits) => Array.from(new Uint32Array(logits.slice().buffer));

const jobs = {
  read() {
    const network = models[job.source ?? "mixture"];
    const state = network.state();
    return job.tokens.map((token) => bitsOf(network.step(token, state)));
  },
  write() {
    const network = models[job.source ?? "mixture"];
    return job.settings.map(([temperature, topP, seed]) => {
      const sampler = new engine.Sampler(network, seed, { temperature, topP });
      for (const id of job.prompt ?? model.start) sampler.feed(id);
      let bits = 0;
      const ids = Array.from({ length: job.length }, () => {
        const id = sampler.choose();
        bits += sampler.bits;
        return id;
      });
      return { ids, bits };
    });
  },
  // The surprisal of each token after the first, and the value of each unit of a layer after it.
  values() {
    const sampler = new engine.Sampler(models.mixture, 0);
    const numbers = Array.from({ length: model.network.hidden_size }, (_, i) => i);
    return job.tokens.map((token) => {
      const bits = sampler.surprisal(token);
      sampler.feed(token);
      const { network, memory } = sampler;
      return { bits, units: numbers.map((i) => network.unit(memory, job.layer, i)) };
    });
  },
  generator() {
    return job.seeds.map(([seed, index]) => {
      const generator = new engine.Generator(seed, index);
      return Array.from({ length: 4 }, () => generator.next());
    });
  },
  encode() {
    return job.texts.map((text) => tokenizer.encode(text));
  },
  decode() {
    return job.lists.map((bytes) => {
      const decoder = new engine.Decoder();
      return decoder.push(bytes) + decoder.flush();
    });
  },
  speed() {
    const network = models[job.source ?? "mixture"];
    const sampler = new engine.Sampler(network, 1, { temperature: 0.8 });
    sampler.feed(model.start[0]);
    for (let i = 0; i < 200; i++) sampler.choose();
    const began = performance.now();
    for (let i = 0; i < job.length; i++) sampler.choose();
    return (1000 * job.length) / (performance.now() - began);
  },
};
process.stdout.write(JSON.stringify(jobs[job.what]()));
