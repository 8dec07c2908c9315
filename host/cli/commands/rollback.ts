import { required } from '../command.ts';
import type { Command } from '../command.ts';

export const rollbackCommand: Command = {
  name: 'rollback',
  usage: 'NAME [VERSION-OR-ALIAS]',
  summary: 'Make an older version the latest again: the one before, or the one named',
  examples: ['hatch rollback hello', 'hatch rollback hello 3'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 1, max: 2 },
  async run({ client, output, positionals }) {
    const name = required(positionals, 0);
    const to = positionals[1];
    const request = to === undefined ? { name } : { name, to };
    const asked = (await client()).ask('rollback', request);
    const done = await output.progress(`Rolling back ${name}`, asked);
    if (output.json) return output.value(done);
    const before = done.from === done.latest ? 'as before' : `was version ${done.from}`;
    output.line(`${output.style('bold', `${name} version ${done.latest}`)} (${before})`);
  },
};
