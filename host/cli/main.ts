/** The command line: finds the command, reads its arguments, runs it, makes errors exit codes. */
import { parseArgs } from 'node:util';
import type { NatsConnection } from '@nats-io/nats-core';
import { HatchError, messageOf, toHatchError } from '../base/errors.ts';
import { ControlClient } from '../dispatch/control-client.ts';
import { flag, UsageError } from './command.ts';
import type { Command, CommandContext, CommandOption, OptionValues } from './command.ts';
import { commands } from './commands.ts';
import { connectionOptions, connectTo, findTarget, tenantOf } from './connection.ts';
import { commandHelp, listHelp } from './help.ts';
import { nearest } from './nearest.ts';
import { Output } from './output.ts';
import type { Streams } from './output.ts';

export const exitCodes = { ok: 0, failure: 1, usage: 2 } as const;

export interface Invocation {
  /** Without the interpreter and the script. */
  args: string[];
  environment: NodeJS.ProcessEnv;
  streams: Streams;
  signal: AbortSignal;
}

/** Runs one command line. Never throws; resolves with the exit code of the process. */
export async function runCommandLine(invocation: Invocation): Promise<number> {
  const { args, environment, streams } = invocation;
  const noColor = (environment['NO_COLOR'] ?? '') !== '';
  const plain = new Output({ streams, json: false, noColor });
  let command: Command | undefined;
  try {
    if (args.length === 0 || args[0] === 'help' || args[0] === '--help' || args[0] === '-h') {
      command = args.length > 1 ? findCommand(args.slice(1)).command : undefined;
      plain.line(command === undefined ? listHelp(commands) : commandHelp(command));
      return exitCodes.ok;
    }
    const found = findCommand(args);
    command = found.command;
    if (command.passesArguments === true) {
      const context = contextOf({ invocation, values: {}, positionals: found.rest, output: plain });
      await command.run(context);
      return exitCodes.ok;
    }
    const { values, positionals } = readArguments(command, found.rest);
    if (flag(values, 'help')) {
      plain.line(commandHelp(command));
      return exitCodes.ok;
    }
    checkPositionals(command, positionals);
    const output = new Output({ streams, json: flag(values, 'json'), noColor });
    await runCommand(command, contextOf({ invocation, values, positionals, output }));
    return exitCodes.ok;
  } catch (error) {
    return report(plain, error, command);
  }
}

interface OpenContext extends CommandContext {
  close(): Promise<void>;
}

async function runCommand(command: Command, context: OpenContext): Promise<void> {
  try {
    await command.run(context);
  } finally {
    await context.close();
  }
}

function contextOf(options: {
  invocation: Invocation;
  values: OptionValues;
  positionals: string[];
  output: Output;
}): OpenContext {
  const { invocation, values, positionals, output } = options;
  const { environment, signal } = invocation;
  let connection: Promise<NatsConnection> | undefined;
  const connectOnce = async () => {
    const target = await findTarget(values, environment);
    return await output.progress(`Connecting to ${target.url}`, connectTo(target));
  };
  const connect = () => (connection ??= connectOnce());
  const tenant = tenantOf(values, environment);
  return {
    positionals,
    values,
    environment,
    tenant,
    output,
    signal,
    connect,
    client: async () => new ControlClient(await connect(), { tenant }),
    close: async () => {
      const opened = await connection?.catch(() => undefined);
      await opened?.close();
    },
  };
}

/** The longest name that the arguments begin with: `image ls` before `image`. */
function findCommand(args: string[]): { command: Command; rest: string[] } {
  for (const words of [2, 1]) {
    const name = args.slice(0, words).join(' ');
    const command = commands.find((one) => one.name === name);
    if (command !== undefined) return { command, rest: args.slice(words) };
  }
  const typed = args[0] ?? '';
  const group = commands.filter(({ name }) => name.startsWith(`${typed} `));
  if (group.length > 0) {
    const names = group.map(({ name }) => `"hatch ${name}"`).join(', ');
    throw new UsageError(`"${typed}" wants one of ${names}`);
  }
  const suggestion = nearest(
    typed,
    commands.map(({ name }) => name),
  );
  const hint = suggestion === undefined ? '' : `; did you mean "hatch ${suggestion}"?`;
  throw new UsageError(`there is no command "${typed}"${hint}`);
}

function readArguments(
  command: Command,
  args: string[],
): { values: OptionValues; positionals: string[] } {
  const options: Record<string, CommandOption> = { ...command.options, ...connectionOptions };
  const help = { type: 'boolean', short: 'h', value: '', help: '' } as const;
  try {
    return parseArgs({ args, options: { ...options, help }, allowPositionals: true });
  } catch (error) {
    // The parser's advice on "--" fits no option of ours.
    throw new UsageError(messageOf(error).split('. To specify')[0] ?? '', { cause: error });
  }
}

function checkPositionals({ usage, positionals: { min, max } }: Command, given: string[]): void {
  if (given.length < min) throw new UsageError(`an argument is missing: it takes ${usage}`);
  if (given.length > max) {
    const surplus = `"${given[max] ?? ''}" is one argument too many`;
    throw new UsageError(usage === '' ? surplus : `${surplus}: it takes ${usage}`);
  }
}

function report(output: Output, thrown: unknown, command: Command | undefined): number {
  if (thrown instanceof UsageError) {
    const help = command === undefined ? 'hatch --help' : `hatch ${command.name} --help`;
    output.note(`${output.style('red', 'error:')} ${thrown.message} (see "${help}")`);
    return exitCodes.usage;
  }
  const error: HatchError = toHatchError(thrown);
  const requestId = error.details['requestId'];
  const suffix = typeof requestId === 'string' ? ` [request ${requestId}]` : '';
  output.note(`${output.style('red', 'error:')} ${error.message} (${error.code})${suffix}`);
  const stack = error.details['stack'];
  if (typeof stack === 'string') output.note(stack);
  if (error.code === 'internal.bug' && error.cause instanceof Error) {
    output.note(error.cause.stack ?? '');
  }
  return exitCodes.failure;
}

if (import.meta.main) {
  const interrupt = new AbortController();
  process.once('SIGINT', () => interrupt.abort());
  // A reader that closes early, like `head`, is no failure of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  });
  process.exitCode = await runCommandLine({
    args: process.argv.slice(2),
    environment: process.env,
    streams: process,
    signal: interrupt.signal,
  });
}
