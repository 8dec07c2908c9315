import type { Command } from '../command.ts';
import { time } from '../output.ts';

export const lsCommand: Command = {
  name: 'ls',
  usage: '',
  summary: 'List the deployed functions',
  examples: ['hatch ls', 'hatch ls --json'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 0, max: 0 },
  async run({ client, output }) {
    const { functions } = await output.progress('Asking', (await client()).ask('ls', {}));
    if (output.json) return output.value(functions);
    if (functions.length === 0) output.note('Nothing is deployed; start with "hatch deploy DIR"');
    else
      output.table(
        ['NAME', 'LATEST', 'VERSIONS', 'DEPLOYED', 'ALIASES'],
        functions.map(({ name, latest, versions, deployedAtMs, aliases }) => [
          name,
          latest,
          versions,
          time(deployedAtMs),
          aliasText(aliases),
        ]),
      );
  },
};

export function aliasText(aliases: Record<string, string>): string {
  return Object.entries(aliases)
    .map(([alias, version]) => `${alias}=${version}`)
    .join(' ');
}
