/** A call as a picture for the terminal: what took how long, and when. */
import type { CallRecord, Step } from '../base/channels.ts';
import { copyUpLines } from './copy-up-table.ts';
import { formatBytes, formatDuration, printable } from './format.ts';
import { painter, type Paint, type Style } from './paint.ts';
import { phasesOf } from './phases.ts';

export interface WaterfallOptions {
  /** Width of the terminal; at least 60 are used. */
  columns?: number;
  colors?: boolean;
}

const columnsMin = 60;
const columnsMax = 160;
const durationWidth = 9;
const shareWidth = 5;

/**
 * Draws one call: a head with the facts, a row with a bar for each phase and step, then copy-ups
 * and the error. Lines end with "\n" and are at most `columns` wide, save for long names.
 */
export function renderTrace(record: CallRecord, options: WaterfallOptions = {}): string {
  const columns = Math.min(columnsMax, Math.max(columnsMin, options.columns ?? 100));
  const paint = painter(options.colors ?? false);
  const sections = [
    headLines(record, paint),
    waterfallLines(record, columns, paint),
    aheadLines(record, paint),
    copyUpLines(record.copyUps, { columns, paint }),
    errorLines(record, paint),
  ];
  const shown = sections.filter((lines) => lines.length > 0);
  return `${shown.map((lines) => lines.join('\n')).join('\n\n')}\n`;
}

function headLines(record: CallRecord, paint: Paint): string[] {
  const { functionName, functionVersion, startRecord, start } = record;
  const verdict =
    record.error === undefined ? paint('green', 'ok') : paint('red', record.error.code);
  const total = formatDuration(record.endNs - record.receivedNs);
  const name = paint('bold', `${functionName}@${functionVersion}`);
  const how = start === undefined ? 'never started' : start === 'hot' ? 'hot' : `${start} start`;
  const took =
    startRecord === undefined
      ? ''
      : ` in ${formatDuration(startRecord.endNs - startRecord.startNs)}`;
  const sizes = `${formatBytes(record.requestBytes)} in, ${formatBytes(record.replyBytes)} out`;
  const facts = [
    `request ${record.requestId}`,
    ...(record.instanceId === undefined ? [] : [`instance ${record.instanceId}`]),
    record.subject,
    sizes,
    ...(startRecord?.readAheadBytes === undefined
      ? []
      : [`${formatBytes(startRecord.readAheadBytes)} read ahead`]),
  ];
  return [`${name}  ${how}${took}  ${total}  ${verdict}`, paint('dim', facts.join(' · '))];
}

interface Row {
  label: string;
  style: Style;
  startNs: number;
  endNs: number;
}

function waterfallLines(record: CallRecord, columns: number, paint: Paint): string[] {
  const rows = rowsOf(record);
  const labelWidth = Math.max(...rows.map(({ label }) => label.length)) + 2;
  const barWidth = Math.max(20, columns - labelWidth - durationWidth - shareWidth - 2);
  const originNs = Math.min(...rows.map(({ startNs }) => startNs));
  const totalNs = Math.max(1, Math.max(...rows.map(({ endNs }) => endNs)) - originNs);
  const lines = rows.map((row) => {
    const bar = barOf(row, { originNs, totalNs, width: barWidth });
    const tookNs = row.endNs - row.startNs;
    const share = `${Math.round((100 * tookNs) / totalNs)} %`.padStart(shareWidth);
    const duration = formatDuration(tookNs).padStart(durationWidth);
    const painted = paint(row.style, bar);
    return `${row.label.padEnd(labelWidth)}${painted} ${duration}${paint('dim', ` ${share}`)}`;
  });
  const axis = axisOf(totalNs, barWidth);
  return [paint('dim', `${' '.repeat(labelWidth)}${axis}`.trimEnd()), ...lines];
}

function rowsOf(record: CallRecord): Row[] {
  const { queue, start, handler } = phasesOf(record);
  const rows: Row[] = [
    {
      label: 'hatch.invoke',
      style: record.error === undefined ? 'blue' : 'red',
      startNs: record.receivedNs,
      endNs: record.endNs,
    },
  ];
  const phases: { row: Row; steps: Step[] }[] = [
    { row: { label: 'hatch.queue', style: 'yellow', ...queue }, steps: [] },
  ];
  if (start !== undefined) {
    const row: Row = { label: `hatch.start ${start.path}`, style: 'cyan', ...start };
    phases.push({ row, steps: start.steps });
  }
  if (handler !== undefined) {
    const row: Row = { label: 'hatch.handler', style: 'green', ...handler };
    phases.push({ row, steps: [] });
  }
  for (const [index, { row, steps }] of phases.entries()) {
    const last = index === phases.length - 1;
    rows.push({ ...row, label: `${last ? '└─ ' : '├─ '}${row.label}` });
    for (const [at, step] of steps.entries()) {
      const branch = `${last ? '   ' : '│  '}${at === steps.length - 1 ? '└─ ' : '├─ '}`;
      const { startNs, endNs } = step;
      rows.push({ label: `${branch}${step.name}`, style: 'cyan', startNs, endNs });
    }
  }
  return rows;
}

/** Where the block characters begin to fill a cell from the left, in eighths. */
const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/** A bar exact to an eighth of a cell at its end, to half a cell at its start; never invisible. */
function barOf(
  { startNs, endNs }: Row,
  scale: { originNs: number; totalNs: number; width: number },
): string {
  const cells = (ns: number): number => ((ns - scale.originNs) / scale.totalNs) * scale.width;
  const from = Math.min(cells(startNs), scale.width - 1 / 8);
  const to = Math.max(cells(endNs), from + 1 / 8);
  const first = Math.floor(from);
  const lastCell = Math.floor(to);
  const tail = eighths[Math.floor((to - lastCell) * 8)] ?? '';
  let bar: string;
  if (first === lastCell) {
    // Within one cell only its width can be shown, not its place.
    bar = eighths[Math.max(1, Math.round((to - from) * 8))] ?? '▉';
  } else {
    const head = from - first >= 0.5 ? '▐' : '█';
    bar = head + '█'.repeat(lastCell - first - 1) + tail;
  }
  return (' '.repeat(first) + bar).padEnd(scale.width);
}

/** Times along the top: at both ends and at the quarters, when there is room for them. */
function axisOf(totalNs: number, width: number): string {
  const quarters = width >= 48 ? [0, 1, 2, 3] : [0, 2];
  const axis: string[] = Array.from({ length: width }, () => ' ');
  const put = (at: number, text: string): void => {
    for (const [index, character] of text.split('').entries()) axis[at + index] = character;
  };
  for (const quarter of quarters) {
    const at = Math.floor((width * quarter) / 4);
    put(at, quarter === 0 ? '╷0' : `╷${formatDuration((totalNs * quarter) / 4)}`);
  }
  return `${axis.join('')}╷${formatDuration(totalNs)}`;
}

/** What was done before the call came, and so cost it nothing. */
function aheadLines(record: CallRecord, paint: Paint): string[] {
  const { ahead } = phasesOf(record);
  if (ahead.length === 0) return [];
  const width = Math.max(...ahead.map(({ name }) => name.length)) + 2;
  const totalNs = ahead.reduce((sum, { startNs, endNs }) => sum + endNs - startNs, 0);
  const title = `Done ahead of the call: ${formatDuration(totalNs)}`;
  return [
    paint('bold', title),
    ...ahead.map(({ name, startNs, endNs }) => {
      return `  ${name.padEnd(width)}${formatDuration(endNs - startNs).padStart(durationWidth)}`;
    }),
  ];
}

function errorLines({ error }: CallRecord, paint: Paint): string[] {
  if (error === undefined) return [];
  const [first = '', ...rest] = error.message.split('\n').map(printable);
  return [paint('red', `${error.code}: ${first}`), ...rest.map((line) => `  ${line}`)];
}
