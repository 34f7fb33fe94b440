// The page: the invitation out of the address, the visitor's examples, and what a guest (guest.js) tells.

import { parseCsv, sideOf } from './data.js';
import { Guest, isUnreachable } from './guest.js';
import { Pad } from './pad.js';

const base = new URL('.', location.href).href.replace(/\/$/, '');
const KEPT = `gridkit-guest ${base}`; // of this tab: who it is, after a reload
const find = (id) => document.getElementById(id);
const show = (id, shown) => (find(id).hidden = !shown);
const write = (id, text) => (find(id).textContent = text);

/** What the address says behind its #, which no server is ever told. It is taken out of the address bar. */
function invitation() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (location.hash) history.replaceState(null, '', location.pathname + location.search);
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? 'null');
  if (!given.name) return kept;
  const wanted = { ...given };
  for (const key of ['features', 'classes', 'lr']) wanted[key] = Number(given[key] ?? 0);
  return kept && kept.token === wanted.token ? kept : wanted;
}

const invited = invitation();
const examples = [];
let pad, guest;

function tellCount() {
  const each = new Map();
  for (const { label } of examples) each.set(label, (each.get(label) ?? 0) + 1);
  const kinds = [...each].sort(([a], [b]) => a - b).map(([label, count]) => `${count} of ${label}`);
  const many = `${examples.length} example${examples.length === 1 ? '' : 's'}`;
  const listed = kinds.length <= 12 ? `: ${kinds.join(', ')}.` : ` of ${kinds.length} classes.`;
  write('count', examples.length ? many + listed : 'No examples yet.');
  show('undo', examples.length);
  show('forget', examples.length);
  find('go').disabled = !examples.length;
}

function setUpDrawing(side) {
  const small = find('small');
  small.width = small.height = side;
  const context = small.getContext('2d');
  let due = false;
  const preview = () => {
    due = false;
    const picture = context.createImageData(side, side);
    pad.image(side).forEach((value, at) => picture.data.set([...Array(3).fill(255 * value), 255], 4 * at));
    context.putImageData(picture, 0, 0);
  };
  pad = new Pad(find('pad'), find('cursor'), () => {
    if (!due) requestAnimationFrame(preview);
    due = true;
  });
  preview();
  const take = (label) => {
    if (pad.empty) return write('problem', 'Draw something first, then press what it is.');
    write('problem', '');
    examples.push({ x: pad.image(side), label });
    pad.clear();
    tellCount();
  };
  for (let label = 0; label < invited.classes; label++) {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: label });
    button.addEventListener('click', () => take(label));
    find('classes').append(button);
  }
  find('pad').addEventListener('keydown', (event) => {
    if (/^\d$/.test(event.key) && Number(event.key) < invited.classes) take(Number(event.key));
  });
  find('clear').addEventListener('click', () => pad.clear());
  write('csv-label', 'Or from a CSV file');
  show('draw', true);
}

async function takeFile(event) {
  const [file] = event.target.files;
  if (!file) return;
  try {
    const found = parseCsv(await file.text(), invited.features, invited.classes);
    for (const example of found) examples.push(example);
    write('problem', '');
  } catch (error) {
    write('problem', `${file.name}: ${error.message}. Nothing was taken from it.`);
  }
  event.target.value = '';
  tellCount();
}

const number = (value) => value.toLocaleString('en', { maximumSignificantDigits: 3 });
const sizeOf = (bytes) => (bytes < 1e6 ? `${number(bytes / 1e3)} kB` : `${number(bytes / 1e6)} MB`);
let steps = 1, reported = 0, sent = 0, trouble = '';

/** Said where it changes, not every second: it is read aloud. */
function say(text) {
  if (find('status').textContent !== text) write('status', text);
}

function tell(news) {
  switch (news.kind) {
    case 'asking':
      if (!reported && !trouble) say('Asking for work…');
      break;
    case 'waiting':
      say(trouble || (reported ? 'Thank you. Waiting for the next round…' : 'There is no work right now. Waiting…'));
      break;
    case 'trouble':
      trouble = isUnreachable(news.error)
        ? "The node doesn't answer. Trying again…"
        : `It didn't work: ${news.error.message}. Trying again…`;
      break;
    case 'training':
      trouble = '';
      steps = news.steps;
      find('progress').value = 0;
      write('round', news.round ?? '–');
      show('work', true);
      say(`Training on your ${news.examples} example${news.examples === 1 ? '' : 's'}…`);
      break;
    case 'step':
      find('progress').value = news.step / steps;
      write('loss', `${number(news.first)} → ${number(news.loss)}`);
      write('accuracy', `${Math.round(100 * news.accuracy)} %`);
      break;
    case 'reported':
      reported += 1;
      sent += news.bytes;
      write('reported', reported);
      write(
        'sent',
        `By how much each of the model's ${news.values.toLocaleString('en')} numbers changed: ` +
          `${sizeOf(news.bytes)}, ${reported} time${reported === 1 ? '' : 's'}, ${sizeOf(sent)} in all.`,
      );
      say('Reported. Thank you!');
      break;
  }
}

async function takePart() {
  find('go').disabled = true;
  show('leave', true);
  guest = new Guest(base, invited, tell);
  try {
    if (invited.workerId) {
      guest.workerId = invited.workerId;
      guest.measured = invited.measured;
    } else {
      say('Joining…');
      await guest.enter(invited.token, find('label').value.trim());
      Object.assign(invited, { workerId: guest.workerId, measured: guest.measured });
      sessionStorage.setItem(KEPT, JSON.stringify(invited));
    }
    show('named', false);
    const end = await guest.takePart(() => examples);
    say(end === 'over' ? 'The training is over. Thank you for taking part!' : 'You left. Your examples are still here.');
    if (end === 'left') find('go').disabled = false;
  } catch (error) {
    find('go').disabled = error.status === 401;
    if (error.status === 401) say('This invitation was used before, or has ended. Ask for a new one.');
    else if (isUnreachable(error)) say("The node doesn't answer. Is this device in its network?");
    else say(`It didn't work: ${error.message}`);
  }
  show('leave', false);
}

function start() {
  if (!invited) {
    show('intro', false);
    return say('This page needs an invitation: the address with all that stands behind its #, or its QR code.');
  }
  write('title', `Take part in “${invited.name}” ${invited.version}`);
  document.title = `Take part in ${invited.name}`;
  if (sideOf(invited.features)) setUpDrawing(sideOf(invited.features));
  write('csv-help', `A line an example: ${invited.features} numbers, then the label, 0 to ${invited.classes - 1}.`);
  show('named', !invited.workerId);
  show('examples', true);
  show('start', true);
  find('csv').addEventListener('change', takeFile);
  find('undo').addEventListener('click', () => (examples.pop(), tellCount()));
  find('forget').addEventListener('click', () => ((examples.length = 0), tellCount()));
  find('go').addEventListener('click', takePart);
  find('leave').addEventListener('click', () => guest.leave());
  tellCount();
}

start();
