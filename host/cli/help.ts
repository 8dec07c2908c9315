/** The texts of `hatch --help` and `hatch COMMAND --help`. */
import type { Command, CommandOption } from './command.ts';
import { connectionOptions } from './connection.ts';
import { tableLines } from './output.ts';

export function listHelp(commands: readonly Command[]): string {
  const rows = commands.map(({ name, usage, summary }) => [`  ${name} ${usage}`, summary]);
  return [
    'Usage: hatch COMMAND [ARGUMENTS] [OPTIONS]',
    '',
    ...tableLines(['Commands:', ''], rows),
    '',
    '"hatch COMMAND --help" shows its options and examples.',
    'Exit codes: 0 done, 1 failed, 2 wrong usage.',
  ].join('\n');
}

export function commandHelp({ name, usage, summary, options, examples, ...rest }: Command): string {
  const common = rest.passesArguments === true ? {} : connectionOptions;
  const rows = Object.entries({ ...options, ...common }).map(optionRow);
  const usageLine = ['hatch', name, usage, rows.length > 0 ? '[OPTIONS]' : ''];
  return [
    `Usage: ${usageLine.filter((word) => word !== '').join(' ')}`,
    '',
    `${summary}.`,
    ...(rows.length === 0 ? [] : ['', ...tableLines(['Options:', ''], rows)]),
    '',
    examples.length === 1 ? 'Example:' : 'Examples:',
    ...examples.map((line) => `  ${line}`),
  ].join('\n');
}

function optionRow([name, { short, value, help }]: [string, CommandOption]): [string, string] {
  const letter = short === undefined ? '' : `-${short}, `;
  return [`  ${letter}--${name}${value === '' ? '' : ` ${value}`}`, help];
}
