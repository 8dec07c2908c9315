import { HatchError } from '../../base/errors.ts';
import { formatBytes } from '../../telemetry/format.ts';
import { required } from '../command.ts';
import type { Command } from '../command.ts';
import { answersOf } from '../host-answers.ts';

export const volumeCommands: Command[] = [
  {
    name: 'volume ls',
    usage: '',
    summary: 'List the volumes of functions, on each host',
    examples: ['hatch volume ls'],
    options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
    positionals: { min: 0, max: 0 },
    async run({ client, output }) {
      const asked = (await client()).askAll('volume.ls', {});
      const hosts = answersOf(await output.progress('Asking', asked), output);
      const volumes = hosts.flatMap(({ host, reply }) =>
        reply.volumes.map((volume) => ({ host, ...volume })),
      );
      if (output.json) return output.value(volumes);
      output.table(
        ['HOST', 'TENANT', 'FUNCTION', 'NAME', 'TAKES', 'OF', 'IN USE'],
        volumes.map(({ host, tenant, functionName, name, usedBytes, limitBytes, isUsed }) => {
          const limit = limitBytes === undefined ? '' : formatBytes(limitBytes);
          const sizes = [formatBytes(usedBytes), limit];
          return [host, tenant, functionName, name, ...sizes, isUsed ? 'yes' : ''];
        }),
      );
    },
  },
  {
    name: 'volume rm',
    usage: 'FUNCTION NAME',
    summary: 'Delete a volume that no version of its function has, on all hosts',
    examples: ['hatch volume rm orders data'],
    options: {},
    positionals: { min: 2, max: 2 },
    async run({ client, output, positionals }) {
      const [functionName, name] = [required(positionals, 0), required(positionals, 1)];
      const asker = await client();
      const { length } = await output.progress('Asking', asker.askAll('volume.ls', {}));
      // Each may first have to wait for instances that end.
      const everyHost = { timeoutMs: 30_000, hosts: length };
      const asked = asker.askAll('volume.rm', { functionName, name }, everyHost);
      const hosts = answersOf(await output.progress('Deleting', asked), output);
      const removedOn = hosts.filter(({ reply }) => reply.isRemoved).map(({ host }) => host);
      if (removedOn.length === 0)
        throw new HatchError(
          'volume.not_found',
          `Cannot find volume "${name}" of function "${functionName}" on any host: see ` +
            '"hatch volume ls"',
        );
      output.line(`${name} of ${functionName} is removed on ${removedOn.join(', ')}`);
    },
  },
];
