/** What a command of `hatch` is made of. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { ParseArgsOptionDescriptor } from 'node:util';
import type { ControlClient } from '../dispatch/control-client.ts';
import type { Output } from './output.ts';

export interface Command {
  /** As it is typed; may be two words: `image ls`. */
  name: string;
  /** What it takes: `NAME [PAYLOAD]`. */
  usage: string;
  /** One line for the list of commands. */
  summary: string;
  /** Lines of a shell that show it at work. */
  examples: string[];
  options: Record<string, CommandOption>;
  /** How many positional arguments it takes. */
  positionals: { min: number; max: number };
  /** Its arguments are read by somebody else: it gets all of them as positionals. */
  passesArguments?: true;
  run(context: CommandContext): Promise<void>;
}

export interface CommandOption extends ParseArgsOptionDescriptor {
  /** What the value is called in the help; for flags empty. */
  value: string;
  help: string;
}

export type OptionValues = Record<string, string | boolean | (string | boolean)[] | undefined>;

export interface CommandContext {
  positionals: string[];
  values: OptionValues;
  environment: NodeJS.ProcessEnv;
  output: Output;
  /** Connects once; the connection is closed when the command has ended. */
  connect: () => Promise<NatsConnection>;
  client: () => Promise<ControlClient>;
  /** For whom the client speaks; undefined for all tenants. */
  tenant: string | undefined;
  /** Aborted by Ctrl-C: what runs without end ends then. */
  signal: AbortSignal;
}

/** A mistake in the command line: exit code 2 and a hint at `--help`. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export function text(values: OptionValues, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}

export function flag(values: OptionValues, name: string): boolean {
  return values[name] === true;
}

/** A whole number from `min` on; undefined when the option was not given. */
export function count(values: OptionValues, name: string, min = 1): number | undefined {
  const value = text(values, name);
  if (value === undefined) return undefined;
  const number = Number(value);
  if (value.trim() !== '' && Number.isSafeInteger(number) && number >= min) return number;
  throw new UsageError(`--${name} "${value}" must be a whole number from ${min} on`);
}

/** A positional that the table of commands guarantees. */
export function required(positionals: string[], index: number): string {
  const value = positionals[index];
  if (value === undefined) throw new UsageError('an argument is missing');
  return value;
}
