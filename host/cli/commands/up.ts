import { resolve } from 'node:path';
import { HatchError, messageOf } from '../../base/errors.ts';
import type { Command } from '../command.ts';

/** The host is another program, above this one: this process becomes it. */
const hostProgram = resolve(import.meta.dirname, '../../main.ts');

export const upCommand: Command = {
  name: 'up',
  usage: '[FLAGS]',
  summary: 'Start a host on this machine, as root ("hatch up --help" lists its flags)',
  examples: ['hatch up', 'hatch up --nats-url nats://10.0.0.1:4222 --parked 16'],
  options: {},
  positionals: { min: 0, max: Infinity },
  passesArguments: true,
  async run({ positionals, environment }) {
    const args = [process.execPath, ...process.execArgv, hostProgram, ...positionals];
    try {
      // The host says what is wrong without root.
      if (process.getuid?.() === 0) {
        const { executeInOwnMounts } = await import('../../sys/own-mounts.ts');
        executeInOwnMounts(args, environment);
      }
      process.execve?.(process.execPath, args, environment);
    } catch (cause) {
      const message = `Cannot start a host: ${messageOf(cause)}`;
      throw new HatchError('host.start_failed', message, { cause });
    }
    throw new HatchError('host.unsupported', 'Cannot start a host: this Node has no execve');
  },
};
