// SPDX-License-Identifier: Apache-2.0
// What every section uses: numbers, text, tables, charts. The skeleton and the prose of the page are in template.html.
// Text of a trace (tokens, labels, names) reaches the page only as textContent or, inside charts, through plain(),
// because Plotly reads a little HTML in its texts.

const by_id = id => document.getElementById(id);
const results = JSON.parse(by_id('results').textContent);
const layers = results.layers;
const labels = results.trace.labels.map(label => label.name);
const options = results.options ?? {};
const level = options.level ?? 0.95;
const percent = `${+(100 * level).toFixed(1)} %`;
const alpha = +(1 - level).toFixed(6);

// ---- numbers and text

const finite = x => Number.isFinite(x);
const number = (x, digits = 3) => {
  if (!finite(x)) return '–';
  const text = x !== 0 && Math.abs(x) < 1e-4 ? x.toExponential(1)
    : x.toLocaleString('en', {maximumSignificantDigits: Number.isInteger(x) ? 15 : digits});
  return text.replace(/-/g, '−');
};
const range = (lower, upper, digits) => `${number(lower, digits)} to ${number(upper, digits)}`;
const p_text = p => finite(p) ? `p = ${number(p, 2)}` : 'p undefined';
const spaced = name => name.replaceAll('_', ' ');

// Spaces, line ends and characters that have no glyph of their own, or reorder their neighbours, are shown as signs.
const signs = {' ': '␣', '\n': '⏎', '\t': '⇥', '\r': '␍', '\x7f': '␡', '\u00a0': '⍽'};
const sign_of = c => {
  if (signs[c]) return signs[c];
  const code = c.codePointAt(0);
  return code < 0x20 ? String.fromCodePoint(0x2400 + code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, '0')}⟩`;
};
const visible = text => text === '' ? '∅' : text.replace(/[\p{Cc}\p{Cf}\p{Z}]/gu, sign_of);
// For names, in which a space is a space.
const readable = text => text.split(' ').map(part => part && visible(part)).join(' ');

// Cut to a width in columns; a CJK character is two wide.
const clip = (text, columns) => {
  let used = 0, out = '';
  for (const c of text) {
    used += c >= '\u1100' ? 2 : 1;
    if (used > columns) return out + '…';
    out += c;
  }
  return out;
};

// For texts inside charts.
const plain = text => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const short = (text, columns) => plain(clip(readable(text), columns));
const wrapped = text => (clip(visible(text), 480).match(/.{1,40}/gsu) ?? []).map(plain).join('<br>');
const lines = (...parts) => parts.filter(part => part != null).join('<br>');

// ---- the page

const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter(child => child != null));
  return node;
};
const fill = (name, text) => document.querySelectorAll(`.fill-${name}`).forEach(node => node.textContent = text);

// One line in place of something that the results do not have: the analysis' own reason if it gave one.
const absent = (parent, what, otherwise) => {
  const reason = (results.not_computed ?? []).find(entry => entry.what === what || entry.what.startsWith(`${what} `));
  parent.append(element('p', {class: 'soft absent'}, reason ? `Not computed: ${reason.why}` : otherwise));
};
// The same for a whole section.
const nothing = (id, what, otherwise) => {
  const section = by_id(id);
  section.replaceChildren(section.querySelector('h2'));
  absent(section, what, otherwise);
};

const controls = section => by_id(section).querySelector('.controls');
// A list to choose from. changed(i) is called with the index of the choice.
const choose = (parent, id, title, names, changed) => {
  const select = element('select', {id}, ...names.map((name, i) => element('option', {value: i}, name)));
  select.addEventListener('change', () => changed(Number(select.value)));
  parent.append(element('label', {}, element('span', {}, title), select));
  return select;
};
// The same for a few short names, which all stay in sight.
const toggle = (parent, id, title, names, changed) => {
  const group = element('fieldset', {id}, element('legend', {}, title));
  names.forEach((name, i) => {
    const input = element('input', {type: 'radio', name: id, value: i});
    input.checked = i === 0;
    input.addEventListener('change', () => changed(i));
    group.append(element('label', {}, input, name));
  });
  parent.append(group);
};

const text_head = name => element('th', {scope: 'col', class: 'text'}, name);
const text_cell = (text, kind = '') => element('td', {class: `text ${kind}`}, text);
// A value with smaller lines under it.
const cell = (value, ...notes) =>
  element('td', {}, value, ...notes.filter(note => note != null).map(note => element('small', {}, note)));
// Fills the table of that id, keeping its caption. Head and rows are texts or cells; the first of a row heads it.
const table = (id, head, rows) => {
  const as = (tag, scope) => value => value instanceof Element ? value : element(tag, scope ? {scope} : {}, value);
  const node = by_id(id), caption = node.caption;
  const body = rows.map(([first, ...others]) => element('tr', {}, as('th', 'row')(first), ...others.map(as('td'))));
  // Sticky inside a caption that is as wide as its table: it stays in sight when the table scrolls sideways.
  if (!caption.querySelector('div')) caption.replaceChildren(element('div', {}, ...caption.childNodes));
  node.replaceChildren(caption, element('thead', {}, element('tr', {}, ...head.map(as('th', 'col')))),
    element('tbody', {}, ...body));
  const box = node.parentElement;
  box.classList.toggle('tall', rows.length > 20);
  Object.entries({tabindex: 0, role: 'region', 'aria-label': caption.textContent.trim()}).forEach(pair =>
    box.setAttribute(...pair));
};
const drop_table = id => by_id(id).parentElement.remove();

// ---- charts

const dark = matchMedia('(prefers-color-scheme: dark)');
// a finger scrolls the page; it must not zoom a chart by accident
const coarse = matchMedia('(pointer: coarse)').matches;

// Okabe and Ito's colours, told apart by colour-blind readers; dash and symbol repeat the difference.
const bright = ['#56b4e9', '#e69f00', '#00b98a', '#e08abb', '#f0e442', '#ff7f50', '#c0c6cc', '#8fa3ff'];
const deep = ['#0072b2', '#d07f00', '#00805c', '#b3498a', '#7a6f00', '#c84600', '#4d555d', '#3c4fc4'];
const colour = i => (dark.matches ? bright : deep)[i % 8];
const symbols = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'x', 'star', 'triangle-down'];
const dashes = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
// Away from the middle both ends leave the page's own colour: darker on white, brighter on black.
const diverging = () => (dark.matches ? ['#9fd0ff', '#3f82bd', '#262b31', '#b86c1e', '#ffbe6f']
  : ['#14508f', '#67a9cf', '#e8e8e8', '#e59a3c', '#9a4a03']).map((c, i) => [i / 4, c]);

const figures = [];
// Draws into the figure of that id whenever needed, and returns a function that draws anew. draw({theme, room}) is
// given the colours of the page and the pixels between the axes, and returns {traces, layout, height, width}; width is
// the least in which the chart can be read: in a narrower window the chart scrolls. A chart without one finite number
// is replaced by a sentence.
const figure = (id, draw) => {
  const parent = by_id(id), caption = parent.querySelector('figcaption');
  const plot = element('div', {class: 'plot', role: 'img', 'aria-labelledby': `${id}-caption`});
  const box = element('div', {class: parent.classList.contains('long') ? 'scroll tall' : 'scroll'}, plot);
  const empty = element('p', {class: 'soft absent', hidden: ''},
    'No value is defined here, so there is nothing to draw.');
  caption.id = `${id}-caption`;
  parent.removeAttribute('id');
  plot.id = id;
  parent.append(box, empty);
  const redraw = () => {
    if (!window.Plotly) return;
    box.hidden = false;
    const style = getComputedStyle(document.documentElement);
    const theme = Object.fromEntries(['text', 'soft', 'back', 'panel', 'line']
      .map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
    const {traces, layout, height, width = 0} = draw({theme, room: box.clientWidth - 90});
    const drawn = traces.filter(trace => (trace.z ?? [trace.y]).flat().some(finite));
    box.hidden = drawn.length === 0;
    empty.hidden = drawn.length > 0;
    if (box.hidden) return;
    plot.style.height = `${height}px`;
    plot.style.minWidth = `${width}px`;
    const axis = {gridcolor: theme.line, linecolor: theme.line, zerolinecolor: theme.line, tickcolor: theme.line,
      fixedrange: coarse, automargin: true};
    const base = {
      width: Math.max(box.clientWidth, width), height, paper_bgcolor: theme.back, plot_bgcolor: theme.back,
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: theme.text},
      hovermode: 'closest', dragmode: coarse ? false : 'zoom',
      hoverlabel: {align: 'left', namelength: -1, bgcolor: theme.panel, bordercolor: theme.soft,
        font: {color: theme.text, size: 12}},
      legend: {orientation: 'h', x: 0, xanchor: 'left', y: 1.02, yanchor: 'bottom'},
      modebar: {bgcolor: 'rgba(0,0,0,0)', color: theme.soft, activecolor: theme.text},
    };
    window.Plotly.react(plot, drawn, {
      ...base, ...layout, margin: {t: 30, r: 12, b: 48, l: 56, ...layout.margin},
      xaxis: {...axis, ...layout.xaxis}, yaxis: {...axis, ...layout.yaxis},
    }, {
      displaylogo: false, showSendToCloud: false, plotlyServerURL: '', displayModeBar: coarse ? false : 'hover',
      modeBarButtonsToRemove: ['select2d', 'lasso2d', 'zoomIn2d', 'zoomOut2d', 'autoScale2d'],
    });
  };
  figures.push(redraw);
  return redraw;
};

// Distance of ticks such that n positions get at most `most` of them.
const steps = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100];
const step_of = (n, most) => steps.find(step => n / step <= most) ?? Math.ceil(n / most);
// Ticks at names, for an axis of positions 0, 1, 2...
const named = (names, most) => {
  const step = step_of(names.length, most), kept = [...names.keys()].filter(i => i % step === 0);
  return {tickmode: 'array', tickvals: kept, ticktext: kept.map(i => plain(names[i]))};
};
// An axis of whole numbers whose ticks never touch, upright on a phone too.
const whole_axis = (title, first, last, room) => ({
  title: {text: title, standoff: 6}, zeroline: false, range: [first - 0.5, last + 0.5],
  tick0: 0, dtick: step_of(last - first + 1, Math.max(2, room / 28)), tickangle: 0,
});
const layer_axis = room => {
  const all = layers.map(layer => layer.layer);
  return whole_axis('layer', Math.min(...all), Math.max(...all), room);
};
// Least width of a chart with one column per expert, where `each` pixels are the least for one.
const wide = (experts, each) => experts > 32 ? 110 + each * experts : 0;
const expert_axis = (experts, room, width) =>
  ({...whole_axis('expert', 0, experts - 1, Math.max(room, width - 90)), showgrid: false});
// An axis of names from the top down.
const rows_axis = (names, most, title = '') => ({title: {text: title, standoff: 8}, showgrid: false, zeroline: false,
  range: [names.length - 0.5, -0.5], ...named(names, most)});
const rows_height = rows => Math.max(240, 132 + Math.min(30 * rows, 12 * Math.max(20, rows)));

const heat = (z, text, more = {}) => ({
  type: 'heatmap', z, text, hoverinfo: 'text', colorscale: 'Cividis',
  xgap: z[0].length <= 32 ? 1 : 0, ygap: z.length <= 32 ? 1 : 0, ...more,
});
// A heat map with unit and colour bar above it, where a phone has room for them; `top` is the pixels they take.
const heat_chart = ({traces, unit, height, width, layout, top = 76, bottom = 48}) => {
  const down = pixels => ({y: 1 - pixels / height, yref: 'container', yanchor: 'top'});
  traces[0].colorbar = {orientation: 'h', thickness: 10, x: 0.5, xanchor: 'center', len: 1, outlinewidth: 0, nticks: 6,
    ypad: 0, ...down(24)};
  const title = {text: plain(unit), font: {size: 12}, x: 0, xref: 'paper', xanchor: 'left', ...down(4)};
  return {traces, height, width, layout: {...layout, title, margin: {t: top, l: 48, b: bottom}}};
};
// Marks over a heat map; the cell under them answers the pointer.
const marks = (cells, marker) => ({
  type: 'scatter', mode: 'markers', x: cells.map(([x]) => x), y: cells.map(([, y]) => y), marker,
  hoverinfo: 'skip', showlegend: false,
});

const line = (name, x, y, i, more = {}) => ({
  type: 'scatter', mode: x.length > 24 ? 'lines' : 'lines+markers', name: plain(name), x, y,
  hoverinfo: 'name+y', yhoverformat: '.4~g',
  line: {color: colour(i), width: 2, dash: dashes[i % 6]}, marker: {symbol: symbols[i % 8], size: 7}, ...more,
});
// A line of reference. A single layer is a point: a line through it would be invisible.
const reference = (name, x, y, i, dash) => line(name, x, y, i,
  {mode: x.length > 1 ? 'lines' : 'markers', line: {color: colour(i), width: 2, dash}});
const error_bars = (values, lower, upper, more) => ({type: 'data', symmetric: false,
  array: values.map((value, i) => finite(upper[i]) ? upper[i] - value : null),
  arrayminus: values.map((value, i) => finite(lower[i]) ? value - lower[i] : null), ...more});
