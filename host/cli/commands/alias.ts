import { flag, required, UsageError } from '../command.ts';
import type { Command } from '../command.ts';
import { aliasText } from './ls.ts';

export const aliasCommand: Command = {
  name: 'alias',
  usage: 'NAME ALIAS [VERSION]',
  summary: 'Let an alias of a function mean a version, or remove the alias',
  examples: ['hatch alias hello live 3', 'hatch alias hello live --remove'],
  options: {
    remove: { type: 'boolean', value: '', help: 'remove the alias' },
    json: { type: 'boolean', value: '', help: 'print JSON' },
  },
  positionals: { min: 2, max: 3 },
  async run({ client, output, positionals, values }) {
    const name = required(positionals, 0);
    const alias = required(positionals, 1);
    const version = positionals[2];
    if ((version === undefined) !== flag(values, 'remove')) {
      throw new UsageError('give either a version or --remove');
    }
    const request = version === undefined ? { name, alias } : { name, alias, version };
    const asked = (await client()).ask('alias', request);
    const done = await output.progress('Asking', asked);
    if (output.json) return output.value(done.aliases);
    const text = aliasText(done.aliases);
    output.line(`${name}: ${text === '' ? 'no aliases' : text}`);
  },
};
