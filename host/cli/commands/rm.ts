import { required } from '../command.ts';
import type { Command } from '../command.ts';

export const rmCommand: Command = {
  name: 'rm',
  usage: 'NAME',
  summary: 'Remove a function with all its versions',
  examples: ['hatch rm hello'],
  options: {},
  positionals: { min: 1, max: 1 },
  async run({ client, output, positionals }) {
    const name = required(positionals, 0);
    await output.progress(`Removing ${name}`, (await client()).ask('rm', { name }));
    output.line(`${name} is removed`);
  },
};
