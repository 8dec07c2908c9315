import { setTimeout as sleep } from 'node:timers/promises';
import type { ControlClient } from '../../dispatch/control-client.ts';
import { count, flag } from '../command.ts';
import type { Command } from '../command.ts';
import { answersOf } from '../host-answers.ts';
import type { Output } from '../output.ts';
import { time } from '../output.ts';

const intervalMsDefault = 1000;

export const topCommand: Command = {
  name: 'top',
  usage: '',
  summary: 'Show the hosts and their instances',
  examples: ['hatch top', 'hatch top --watch --interval 500', 'hatch top --json'],
  options: {
    watch: { type: 'boolean', short: 'w', value: '', help: 'refresh until Ctrl-C' },
    interval: { type: 'string', value: 'MS', help: `of --watch (default ${intervalMsDefault})` },
    json: { type: 'boolean', value: '', help: 'print JSON' },
  },
  positionals: { min: 0, max: 0 },
  async run({ client, output, signal, values }) {
    const intervalMs = count(values, 'interval', 100) ?? intervalMsDefault;
    const control = await client();
    do {
      const hosts = await statusOf(control, output);
      if (flag(values, 'watch')) output.clear();
      if (output.json) output.value(hosts);
      else printHosts(output, hosts);
      if (!flag(values, 'watch')) return;
      await sleep(intervalMs, undefined, { signal }).catch(() => undefined);
    } while (!signal.aborted);
  },
};

type HostStatus = Awaited<ReturnType<typeof statusOf>>[number];

async function statusOf(control: ControlClient, output: Output) {
  const asked = control.askAll('status', {});
  const answers = answersOf(await output.progress('Asking', asked), output);
  return answers.map(({ host, reply }) => ({ host, ...reply }));
}

function printHosts(output: Output, hosts: HostStatus[]): void {
  output.table(
    ['HOST', 'UP SINCE', 'FUNCTIONS', 'IN FLIGHT', 'INSTANCES', 'PARKED'],
    hosts.map((host) => [
      host.host,
      time(host.startedAtMs),
      host.functions,
      host.inFlight,
      host.instances.length,
      host.parked,
    ]),
  );
  const rows = hosts.flatMap(({ host, instances }) =>
    instances.map(({ id, functionName, functionVersion, state, calls }) => [
      host,
      id,
      functionName,
      functionVersion,
      state,
      calls,
    ]),
  );
  if (rows.length === 0) return;
  output.line('');
  output.table(['HOST', 'INSTANCE', 'FUNCTION', 'VERSION', 'STATE', 'CALLS'], rows);
}
