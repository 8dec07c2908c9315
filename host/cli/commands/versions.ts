import { formatBytes } from '../../telemetry/format.ts';
import { required } from '../command.ts';
import type { Command } from '../command.ts';
import { time } from '../output.ts';

export const versionsCommand: Command = {
  name: 'versions',
  usage: 'NAME',
  summary: 'List the versions of a function that can be called',
  examples: ['hatch versions hello'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 1, max: 1 },
  async run({ client, output, positionals }) {
    const name = required(positionals, 0);
    const asked = (await client()).ask('versions', { name });
    const { versions } = await output.progress('Asking', asked);
    if (output.json) return output.value(versions);
    output.table(
      ['VERSION', 'LATEST', 'DEPLOYED', 'SIZE', 'LAYER', 'ALIASES'],
      versions.map(({ version, isLatest, createdAtMs, layerBytes, digest, aliases }) => [
        version,
        isLatest ? 'yes' : '',
        time(createdAtMs),
        formatBytes(layerBytes),
        digest.slice(0, 19),
        aliases.join(' '),
      ]),
    );
  },
};
