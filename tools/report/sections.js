// SPDX-License-Identifier: Apache-2.0
// The sections of the page, in the order in which a reader asks.

const head = () => {
  const {model, documents, tokens, label_key, block_key, blocks} = results.trace;
  const name = String(model.name ?? 'unnamed model');
  const distinct = field => [...new Set(layers.map(layer => layer[field]).filter(finite))].join(', ') || '–';
  document.title = `Routing report: ${name}`;
  fill('model', name);
  fill('percent', percent);
  fill('alpha', alpha);

  const answers = results.answers ?? [], warnings = results.warnings ?? [];
  by_id('answers').append(...answers.map(text => element('li', {}, text)));
  by_id('answers').hidden = !answers.length;
  by_id('warnings').querySelector('ul').append(...warnings.map(text => element('li', {}, text)));
  by_id('warnings').hidden = !warnings.length;
  const facts = [['model', model.model_type ? `${name} (${model.model_type})` : name], ['documents', number(documents)],
    ['tokens', number(tokens)], ['MoE layers', number(layers.length)], ['experts per layer', distinct('experts')],
    ['experts chosen per token', distinct('top_k')]];
  const key = label_key && label_key !== 'label' ? ` (${label_key})` : '';
  if (labels.length) facts.push([`labels${key}`, number(labels.length)]);
  if (block_key && blocks) facts.push([`blocks (${block_key})`, number(blocks)]);
  by_id('facts').append(...facts.map(([term, value]) =>
    element('div', {}, element('dt', {}, term), element('dd', {}, value))));

  if (!labels.length) return drop_table('table-labels');
  table('table-labels', ['label', 'documents', 'tokens', 'loss (nats/token)'],
    results.trace.labels.map(label => [label.name, number(label.documents), number(label.tokens),
      finite(label.loss) ? label.loss.toFixed(2) : number(null)]));
};

const activation = () => {
  if (!layers.length) return nothing('activation', 'layers', 'The results have no MoE layer.');
  const measures = [{name: 'hard load', field: 'load_share', unit: 'share of slots'}];
  if (layers.some(layer => layer.probability)) {
    measures.unshift({name: 'soft probability', field: 'probability', unit: 'mean soft probability'});
  }
  let shown = measures[0];
  const bar = controls('activation');
  if (measures.length > 1) {
    toggle(bar, 'activation-measure', 'Show', measures.map(({name}) => name), i => {
      shown = measures[i];
      redraw();
    });
  } else {
    absent(bar, 'probability',
      'Only the hard load is shown: the trace has no logits, so there is no soft probability.');
  }
  const experts = Math.max(...layers.map(layer => layer.experts));
  const same = layers.every(layer => layer.experts === experts);
  const redraw = figure('plot-activation', ({room}) => {
    const {field, unit} = shown;
    const width = wide(experts, 4);
    const z = layers.map(layer => Array.from({length: experts}, (_, e) => layer[field]?.[e] ?? null));
    const text = layers.map((layer, i) => z[i].map((value, e) => e >= layer.experts ? '' : lines(
      `layer ${layer.layer}, expert ${e}`, `${unit} ${number(value)}`,
      finite(value) ? `${number(value * layer.experts)} × uniform (1/${layer.experts} = ${number(1 / layer.experts)})`
        : null,
      `${number(layer.counts[e])} slots`)));
    return heat_chart({
      traces: [heat(z, text)], unit: same ? `${unit}; uniform: 1/${experts} = ${number(1 / experts)}` : unit,
      height: rows_height(layers.length), width,
      layout: {xaxis: expert_axis(experts, room, width),
        yaxis: rows_axis(layers.map(layer => layer.layer), 24, 'layer')},
    });
  });
};

const balance_names = {max_violation: 'max violation', min_violation: 'min violation',
  coefficient_of_variation: 'coefficient of variation',
  gini: 'Gini', normalized_entropy: 'normalised entropy', effective_experts: 'effective experts',
  load_balancing_loss: 'load-balancing loss (Switch)', load_balancing_loss_olmoe: 'load-balancing loss (OLMoE)',
  design_effect: 'design effect'};
const gate_names = {entropy_nats: 'entropy (nats)', margin: 'margin at rank k', top_k_mass: 'probability of the chosen',
  top1_probability: 'probability of the first', z_loss: 'z-loss'};
const counted_names = {dropped_slots: 'dropped slots', nonfinite_rows: 'tokens with NaN or infinite logits',
  tied_rows: 'tokens with a tie',
  selection_mismatch_rows: 'tokens whose recorded choice differs'};

const balance = () => {
  const having = layers.filter(layer => layer.balance);
  if (!having.length) return nothing('balance', 'balance', 'The results have no balance statistics.');
  const x = having.map(layer => layer.layer);
  const chart = (id, name, axis) => figure(id, ({room}) => {
    const of = field => having.map(layer => layer.balance[name]?.[field] ?? null);
    return {
      traces: [line('observed', x, of('value'), 0),
        reference('random routing, 95 % bound', x, of('uniform_q95'), 1, 'dash'),
        reference('tokens of a document alike, 95 % bound', x, of('dependent_q95'), 2, 'dot')],
      height: 320,
      layout: {hovermode: 'x', xaxis: layer_axis(room), yaxis: {title: {text: balance_names[name]}, ...axis},
        showlegend: true},
    };
  });
  chart('plot-max-violation', 'max_violation', {rangemode: 'tozero'});
  chart('plot-effective-experts', 'effective_experts', {});

  const names = [...new Set([...Object.keys(balance_names), ...having.flatMap(layer => Object.keys(layer.balance))])]
    .filter(name => having.some(layer => layer.balance[name] != null));
  // A plain number has no reference under uniform routing.
  const parts = one => [['random', one.uniform_mean], ['bound', one.uniform_q95]].filter(([, value]) => finite(value))
    .map(([name, value]) => `${name} ${number(value, 4)}`).join(', ') || null;
  const entry = one => one == null || finite(one) ? number(one, 4) : cell(number(one.value, 4), parts(one),
    finite(one.dependent_q95) ? `documents, bound ${number(one.dependent_q95, 4)}` : null);
  const unseen = one => !one ? '–' : !one.experts.length ? 'none'
    : cell(clip(one.experts.join(', '), 24), finite(one.upper_95) ? `rate under ${number(one.upper_95)}` : null);
  table('table-balance', ['layer', ...names.map(name => balance_names[name] ?? spaced(name)), 'unseen experts'],
    having.map(layer => [number(layer.layer), ...names.map(name => entry(layer.balance[name])), unseen(layer.unseen)]));

  const gates = Object.keys(gate_names).filter(name => layers.some(layer => finite(layer.gate?.[name])));
  const counts = Object.keys(counted_names).filter(name => layers.some(layer => finite(layer[name])));
  const names_of = (names, kept) => kept.map(name => names[name]);
  table('table-gate', ['layer', 'tokens', ...names_of(gate_names, gates), ...names_of(counted_names, counts)],
    layers.map(layer => [number(layer.layer), number(layer.tokens), ...gates.map(name => number(layer.gate?.[name])),
      ...counts.map(name => number(layer[name]))]));
};

const documents = () => {
  const all = (results.documents ?? []).filter(one => one.tokens.length && one.layers.length);
  if (!all.length) return nothing('documents', 'documents', 'The results hold no example document.');
  let shown = all[0], layer = shown.layers[0];
  const bar = controls('documents'), layer_box = element('span');
  const layer_list = () => {
    const names = shown.layers.map(one => String(one.layer));
    return choose(layer_box, 'document-layer', 'Layer', names, i => {
      layer = shown.layers[i];
      redraw();
    });
  };
  choose(bar, 'document-label', 'Document', all.map(one => `${one.label}: ${clip(readable(one.id ?? ''), 40)}`), i => {
    shown = all[i];
    // the same layer, if that document has it
    const at = Math.max(0, shown.layers.findIndex(one => one.layer === layer.layer));
    layer = shown.layers[at];
    layer_box.replaceChildren();
    layer_list().value = at;
    redraw();
  });
  bar.append(layer_box);
  layer_list();

  // The chosen experts of a token, heaviest first; -1 is a dropped slot.
  const chosen = t => layer.ids[t].map((id, k) => ({id, weight: layer.weights?.[t][k]})).filter(({id}) => id >= 0)
    .sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0));
  const draw = figure('plot-document', ({room}) => {
    const soft = layer.probability_e4;
    const {tokens} = shown;
    const experts = layers.find(one => one.layer === layer.layer)?.experts
      ?? Math.max(...layers.map(one => one.experts));
    const width = wide(experts, 7);
    const slots = tokens.map((_, t) => new Map(chosen(t).map(slot => [slot.id, slot])));
    const hard = slot => slot ? slot.weight ?? 1 : 0;
    const value = (t, e) => !soft ? hard(slots[t].get(e)) : finite(soft[t][e]) ? soft[t][e] / 1e4 : null;
    const z = tokens.map((_, t) => Array.from({length: experts}, (_, e) => value(t, e)));
    const weight = slot => finite(slot.weight) ? `, weight ${number(slot.weight)}` : '';
    const choice = slot => slot ? `chosen${weight(slot)}` : 'not chosen';
    const text = z.map((row, t) => {
      const token = `token ${t}: ${wrapped(tokens[t])}`;
      return row.map((x, e) => lines(token, `expert ${e}`, soft ? `probability ${number(x)}` : null,
        choice(slots[t].get(e))));
    });
    const dots = soft ? slots.flatMap((row, t) => [...row.keys()].map(e => [e, t])) : [];
    return heat_chart({
      traces: [heat(z, text, {ygap: 1}), marks(dots, {size: 6, color: '#ffffff', line: {color: '#000000', width: 1}})],
      unit: soft ? 'soft probability' : layer.weights ? 'weight of the chosen experts' : 'chosen experts (1)',
      height: 130 + 18 * tokens.length, width, top: 100, bottom: 16,
      layout: {
        xaxis: {...expert_axis(experts, room - 40, width), side: 'top'},
        yaxis: {...rows_axis(tokens.map(piece => clip(visible(piece), room < 400 ? 9 : 14)), tokens.length),
          tickfont: {size: 11}},
      },
    });
  });
  const redraw = () => {
    draw();
    by_id('document-note').hidden = !shown.truncated;
    by_id('document-note').textContent = `Only the first ${number(shown.tokens.length)} tokens are shown.`;
    by_id('document-weights').hidden = !layer.weights;
    const ranks = [...Array(Math.max(1, ...layer.ids.map(row => row.length))).keys()];
    const weight = slot => finite(slot.weight) ? number(slot.weight) : null;
    const rows = shown.tokens.map((piece, t) => {
      const slots = chosen(t);
      return [number(t), text_cell(visible(piece), 'piece'),
        ...ranks.map(k => slots[k] ? cell(slots[k].id, weight(slots[k])) : '–')];
    });
    table('table-document', ['token', text_head('text'), ...ranks.map(k => `choice ${k + 1}`)], rows);
  };
  redraw();
};

const specialization = () => {
  const having = layers.filter(layer => layer.labels?.length);
  if (labels.length < 2 || !having.length) {
    const reason = labels.length === 1 ? `There is only one label (${labels[0]})` : 'The documents have no labels';
    return nothing('labels', 'labels', `${reason}, so there is nothing to compare.`);
  }
  let layer = having[0], label = 0;
  const draws = [], redraw = () => draws.forEach(draw => draw()), bar = controls('labels');
  choose(bar, 'label-layer', 'Layer', having.map(one => String(one.layer)), i => {
    layer = having[i];
    redraw();
  });
  choose(bar, 'label-label', 'Label of the bars', labels, i => {
    label = i;
    redraw();
  });

  const interval = (low, high) => `${percent} interval ${range(low, high)}`;
  const describe = (c, e) => {
    const one = layer.labels[c];
    return lines(`${short(labels[c], 40)}, layer ${layer.layer}, expert ${e}`,
      `share of slots ${number(one.share[e])}`, interval(one.lower[e], one.upper[e]),
      `lift ${number(one.lift[e])}`, interval(one.lift_lower[e], one.lift_upper[e]),
      `${p_text(one.p_value[e])}; family-wise ${p_text(one.p_adjusted[e])}`,
      `false discovery rate q = ${number(one.q_by[e], 2)}`, `${number(one.counts[e])} slots`);
  };
  const label_chart = (unit, z, more, ...over) => ({room}) => {
    const {experts} = layer, width = wide(experts, 4);
    const text = layer.labels.map((one, c) => one.share.map((_, e) => describe(c, e)));
    return heat_chart({
      traces: [heat(z(), text, more()), ...over.map(trace => trace())], unit: unit(),
        height: Math.max(250, 132 + 30 * labels.length), width,
      layout: {xaxis: expert_axis(experts, room, width),
        yaxis: rows_axis(labels.map(name => clip(readable(name), 12)), 60)},
    });
  };
  draws.push(figure('plot-share',
    label_chart(() => `share of slots; uniform: 1/${layer.experts} = ${number(1 / layer.experts)}`,
    () => layer.labels.map(one => one.share), () => ({zmin: 0}))));

  // The colours mean the same in every layer. A lift of 0 has no logarithm; it takes the end of the scale and says 0
  // when hovered.
  const folds = having.flatMap(one => one.labels.flatMap(({lift}) => lift)).filter(x => x > 0)
    .map(x => Math.abs(Math.log2(x)));
  const limit = Math.min(4, folds.reduce((a, b) => Math.max(a, b), 0.5));
  const fold = x => !finite(x) ? null : x <= 0 ? -limit : Math.max(-limit, Math.min(limit, Math.log2(x)));
  const small = p => finite(p) && p < alpha;
  const held = one => one.labels.flatMap(({p_adjusted}, c) =>
    [...p_adjusted.keys()].filter(e => small(p_adjusted[e])).map(e => [e, c]));
  draws.push(figure('plot-lift', label_chart(
    () => 'log2 of the lift', () => layer.labels.map(({lift}) => lift.map(fold)),
    () => ({colorscale: diverging(), zmin: -limit, zmax: limit}),
    () => marks(held(layer), {size: layer.experts > 64 ? 4 : 6, color: dark.matches ? '#ffffff' : '#111111'}))));

  draws.push(figure('plot-label', ({theme, room}) => {
    const one = layer.labels[label], {experts} = layer, x = [...one.share.keys()];
    const width = wide(experts, 6), many = experts > 32;
    return {
      traces: [{type: 'bar', name: short(labels[label], 24), x, y: one.share, text: x.map(e => describe(label, e)),
        textposition: 'none',
        hoverinfo: 'text', marker: {color: colour(0)},
        error_y: error_bars(one.share, one.lower, one.upper, {color: theme.text, thickness: 1.2, width: many ? 0 : 3})},
      {type: 'scatter', mode: 'markers', name: 'all labels', x, y: layer.load_share, hoverinfo: 'skip',
        marker: {symbol: 'diamond', size: many ? 5 : 8, color: colour(1), line: {color: theme.back, width: 1}}}],
      height: 340, width, layout: {xaxis: expert_axis(experts, room, width),
        yaxis: {title: {text: 'share of slots'}, rangemode: 'tozero'}},
    };
  }));

  const most = 20;
  const found = having.flatMap(one => held(one).map(([e, c]) => {
    const entry = one.labels[c];
    return {one, e, c, entry, size: Math.abs(Math.log2(entry.lift[e]))};
  }));
  found.sort((a, b) => b.size - a.size || a.entry.p_adjusted[a.e] - b.entry.p_adjusted[b.e]);
  const tested = having.flatMap(one => one.labels.map(({p_adjusted}) => p_adjusted.filter(finite).length))
    .reduce((a, b) => a + b, 0);
  const caption = by_id('table-lift').caption;
  if (!found.length) {
    drop_table('table-lift');
    by_id('labels').append(element('p', {},
      `None of the ${number(tested)} cells (layers × experts × labels) has a family-wise p-value under ${alpha}.`));
    return;
  }
  caption.textContent = `${number(found.length)} of ${number(tested)} cells (layers × experts × labels) have a ` +
    `family-wise p-value under ${alpha}` +
    (found.length > most ? `; these are the ${most} with the largest lift, up or down.` : '.');
  const between = `${percent} interval`;
  table('table-lift', ['label', 'layer', 'expert', 'share', between, 'lift', between, 'p', 'p family-wise', 'q (BY)'],
    found.slice(0, most).map(({one, e, c, entry}) => [labels[c], number(one.layer), number(e), number(entry.share[e]),
      range(entry.lower[e], entry.upper[e]), number(entry.lift[e]), range(entry.lift_lower[e], entry.lift_upper[e]),
      ...[entry.p_value, entry.p_adjusted, entry.q_by].map(p => number(p[e], 2))]));
};

const effective = () => {
  const {labels: means = [], differences = [], tokens_compared: compared} = results.effective_experts ?? {};
  const having = layers.filter(layer => layer.labels?.length);
  if (!means.length) {
    return nothing('effective', 'effective_experts', labels.length
      ? 'The effective number of experts per label was not computed.'
      : 'The documents have no labels, so there is nothing to compare.');
  }
  fill('compared', finite(compared) ? `; every label is taken at ${number(compared)} tokens` : '');
  const describe = one => [`${number(one.value, 4)} experts`, `${percent} interval ${range(one.lower, one.upper, 4)}`];
  const value_axis = {title: {text: 'effective experts'}, zeroline: false};
  figure('plot-effective', ({theme}) => {
    const of = field => means.map(one => one[field]);
    return {
      traces: [{type: 'scatter', mode: 'markers', x: [...means.keys()], y: of('value'), hoverinfo: 'text',
        showlegend: false,
        text: means.map(one => lines(short(one.name, 40), ...describe(one))), marker: {size: 10, color: colour(0)},
        error_y: error_bars(of('value'), of('lower'), of('upper'), {color: theme.text, thickness: 1.5, width: 6})}],
      height: 320, layout: {yaxis: value_axis, xaxis: {...named(means.map(one => clip(readable(one.name), 12)), 40),
        range: [-0.5, means.length - 0.5], showgrid: false, zeroline: false}},
    };
  });
  figure('plot-effective-layers', ({room}) => ({
    traces: labels.map((name, c) => {
      const of = having.map(layer => layer.labels[c].effective_experts);
      return line(clip(readable(name), 20), having.map(layer => layer.layer), of.map(one => one.value), c,
        {hoverinfo: 'text', text: of.map((one, i) => lines(`${short(name, 40)}, layer ${having[i].layer}`,
          ...describe(one)))});
    }),
    height: 380, layout: {xaxis: layer_axis(room), yaxis: value_axis, showlegend: true},
  }));
  if (!differences.length) {
    drop_table('table-differences');
    return absent(by_id('effective'), 'differences', labels.length === 1
      ? 'One label only: there is no difference to test.'
      : 'No difference was computed.');
  }
  table('table-differences', ['first − second', 'difference', `${percent} interval`, 'p', 'p (Holm)'],
    differences.map(one => [`${one.a} − ${one.b}`, number(one.value), range(one.lower, one.upper),
      number(one.p_value, 2), number(one.p_adjusted, 2)]));
};

const information = () => {
  const having = layers.filter(layer => finite(layer.mutual_information?.nats));
  if (!having.length) {
    return nothing('information', 'mutual_information', labels.length < 2
      ? 'Mutual information needs at least two labels.'
      : 'No value is defined here: mutual information was not computed.');
  }
  const x = having.map(layer => layer.layer), all = having.map(layer => layer.mutual_information);
  const of = field => all.map(one => one[field] ?? null);
  figure('plot-information', ({room}) => ({
    traces: [line('observed', x, of('nats'), 0, {hoverinfo: 'text', text: all.map((one, i) => lines(`layer ${x[i]}`,
      `${number(one.nats)} nats observed`, `${number(one.corrected_nats)} nats corrected`, p_text(one.p_value)))}),
    reference('corrected for chance', x, of('corrected_nats'), 2, 'solid'),
    reference('labels permuted, 95 % quantile', x, of('null_q95'), 1, 'dash')],
    height: 320, layout: {xaxis: layer_axis(room), yaxis: {title: {text: 'nats'}, rangemode: 'tozero'},
      showlegend: true},
  }));
  table('table-information', ['layer', 'observed', 'corrected', 'permuted, mean', 'permuted, 95 %', 'p'],
    all.map((one, i) => [number(x[i]), number(one.nats), number(one.corrected_nats), number(one.null_mean),
      number(one.null_q95), number(one.p_value, 2)]));
};

const lag = () => {
  const {layers: of_layer, load, probability} = results.lag_correlation ?? {};
  const measures = [['hard load', load], ['soft probability', probability]]
    .filter(([, part]) => part?.matrix.flat().some(finite));
  if (!measures.length) {
    return nothing('lag', 'lag_correlation',
      'The correlation between layers needs at least two MoE layers with the same number of experts.');
  }
  let shown = measures[0][1];
  if (measures.length > 1) {
    toggle(controls('lag'), 'lag-measure', 'Show', measures.map(([name]) => name), i => {
      shown = measures[i][1];
      redraw();
    });
  }
  const columns = () => Math.max(...shown.matrix.map(row => row.findLastIndex(finite) + 1));
  const lag_axis = room => whole_axis('Δ (MoE layers)', 1, columns(), room);
  const draw_matrix = figure('plot-lag', ({room}) => {
    const z = shown.matrix.map(row => row.slice(0, columns()));
    const limit = z.flat().filter(finite).reduce((a, r) => Math.max(a, Math.abs(r)), 0.2);
    const text = z.map((row, i) => row.map((r, d) => finite(r)
      ? lines(`layer ${of_layer[i]} with layer ${of_layer[i + d + 1]} (Δ = ${d + 1})`, `r = ${number(r)}`) : ''));
    return heat_chart({
      traces: [heat(z, text, {x: [...z[0].keys()].map(d => d + 1), colorscale: diverging(), zmin: -limit,
        zmax: limit})],
      unit: 'correlation r', height: rows_height(z.length),
      layout: {xaxis: {...lag_axis(room), showgrid: false}, yaxis: rows_axis(of_layer, 24, 'first layer')},
    });
  });
  const means = () => shown.lags.filter(one => finite(one.mean));
  const draw_means = figure('plot-lag-mean', ({theme, room}) => {
    const dots = shown.matrix.flatMap((row, i) => row.map((r, d) => ({r, d: d + 1, i}))).filter(({r}) => finite(r));
    const bound = sign => ({type: 'scatter', mode: 'lines', name: 'unrelated, ± 1.96 sd of one r', showlegend: sign > 0,
      x: [0.5, columns() + 0.5], y: [1, 1].map(one => one * sign * 1.96 * shown.null_sd), hoverinfo: 'skip',
      line: {color: theme.soft, dash: 'dash', width: 1}});
    const pair = {type: 'scatter', mode: 'markers', name: 'one pair of layers', x: dots.map(({d}) => d),
      y: dots.map(({r}) => r), hoverinfo: 'text', marker: {size: 5, color: theme.soft, opacity: 0.7},
      text: dots.map(({r, d, i}) => lines(`layer ${of_layer[i]} with layer ${of_layer[i + d]} (Δ = ${d})`,
        `r = ${number(r)}`))};
    const all = means();
    const mean = {type: 'scatter', mode: 'markers', name: 'mean', x: all.map(one => one.delta),
      y: all.map(one => one.mean), hoverinfo: 'text',
      text: all.map(one => lines(`Δ = ${one.delta}, pairs: ${number(one.n)}`, `mean r = ${number(one.mean)}`,
        `permutation ${p_text(one.p_value)}`, `over all Δ ${p_text(one.p_adjusted)}`)),
      marker: {size: 11, color: colour(0), line: {width: 2, color: colour(0)},
        symbol: all.map(one => finite(one.p_adjusted) && one.p_adjusted < alpha ? 'diamond' : 'diamond-open')}};
    return {
      traces: [bound(1), bound(-1), pair, mean],
      height: 340, layout: {xaxis: lag_axis(room), yaxis: {title: {text: 'correlation r'}}, showlegend: true},
    };
  });
  const list = () => table('table-lag', ['Δ', 'pairs', 'mean r', 'sd of r', 'p', 'p family-wise'],
    means().map(one => [number(one.delta), number(one.n), number(one.mean), number(one.sd), number(one.p_value, 2),
      number(one.p_adjusted, 2)]));
  const redraw = () => [draw_matrix, draw_means, list].forEach(draw => draw());
  list();
};

const notes = () => {
  const {bootstrap_replicates: replicates, permutations, seed} = options;
  const block = results.trace.block_key, missing = results.not_computed ?? [];
  fill('blocks', block ? `, and documents that share one ${block} move together as a block` : '');
  fill('replicates', finite(replicates) ? `${number(replicates)} ` : '');
  fill('permutations', finite(permutations) ? `${number(permutations)} ` : '');
  const least = finite(permutations) ? `, so none of them is under ${number(1 / (permutations + 1), 2)}` : '';
  fill('smallest', `${block ? ' within blocks' : ''}${least}`);
  fill('version', `${results.moeroute_version ?? ''}${finite(seed) ? `, seed ${seed}` : ''}`);
  by_id('not-computed').hidden = !missing.length;
  by_id('not-computed').querySelector('ul').append(...missing
    .map(({what, why}) => element('li', {}, `${spaced(what)}: ${why}`)));
  const show = value => value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value ?? '–');
  const facts = (prefix, object) => Object.entries(object ?? {})
    .map(([name, value]) => [prefix + spaced(name), text_cell(show(value))]);
  const made = {moeroute: results.moeroute_version, results_schema: results.schema_version};
  table('table-versions', ['what', text_head('value')], [...facts('', made), ...facts('model: ', results.trace.model),
    ...facts('run: ', results.trace.run), ...facts('option: ', options)]);
};

// plotly.js stands in the page as base64, usually of gzip. The page's security policy lets only inline scripts run.
const load_plotly = async () => {
  const bytes = Uint8Array.from(atob(by_id('plotly').textContent), c => c.charCodeAt(0));
  const packed = bytes[0] === 0x1f && bytes[1] === 0x8b, blob = new Blob([bytes]);
  if (packed && !window.DecompressionStream) throw new Error('this browser is too old; the tables are complete');
  const code = await new Response(packed ? blob.stream().pipeThrough(new DecompressionStream('gzip')) : blob).text();
  document.head.append(Object.assign(element('script'), {textContent: code}));
};

const sections = [activation, balance, documents, specialization, effective, information, lag, notes];
[head, ...sections].forEach(section => section());
document.querySelector('nav ul').append(...[...document.querySelectorAll('section')].map(section =>
  element('li', {}, element('a', {href: `#${section.id}`}, section.querySelector('h2').textContent))));
load_plotly().then(() => {
  const redraw = () => figures.forEach(draw => draw());
  redraw();
  dark.addEventListener('change', redraw);
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth !== width) redraw();  // a phone that hides its address bar changes only the height
    width = innerWidth;
  });
  document.documentElement.dataset.drawn = 'yes';
}).catch(error => {
  document.querySelector('header').append(element('p', {class: 'warnings'},
    `The charts could not be drawn: ${error.message}.`));
  console.error(error);
});
