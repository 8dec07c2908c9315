import { hostname } from 'node:os';
import { HatchError } from '../../base/errors.ts';
import type { Check } from '../../dispatch/control-api.ts';
import { answersOf } from '../host-answers.ts';
import type { Command, CommandContext } from '../command.ts';
import type { Output } from '../output.ts';

export const doctorCommand: Command = {
  name: 'doctor',
  usage: '',
  summary: 'Show what each host, and this machine, can do',
  examples: ['hatch doctor', 'hatch doctor --json'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 0, max: 0 },
  async run(context) {
    const { output } = context;
    // Kernel and programs are of interest above all when no host runs yet.
    const { checkMachine } = await import('../machine-checks.ts');
    const machine = { where: `this machine (${hostname()})`, checks: await checkMachine() };
    const hosts = await hostChecks(context);
    const all = [...hosts, machine];
    if (output.json) output.value(all);
    else for (const { where, checks } of all) printChecks(output, where, checks);
    const failed = all.flatMap(({ checks }) => checks.filter(({ status }) => status === 'fail'));
    if (failed.length > 0) {
      const names = failed.map(({ name }) => name).join(', ');
      throw new HatchError('host.unsupported', `Cannot run functions everywhere: ${names}`);
    }
  },
};

interface Checked {
  where: string;
  checks: Check[];
}

async function hostChecks({ client, output }: CommandContext): Promise<Checked[]> {
  try {
    const asked = (await client()).askAll('doctor', {});
    const answers = answersOf(await output.progress('Asking the hosts', asked), output);
    return answers.map(({ host, reply }) => ({ where: `host ${host}`, checks: reply.checks }));
  } catch (error) {
    if (!(error instanceof HatchError) || error.code !== 'host.nats_unavailable') throw error;
    output.note(error.message);
    return [];
  }
}

const styles = { ok: 'green', warn: 'yellow', fail: 'red' } as const;

function printChecks(output: Output, where: string, checks: Check[]): void {
  output.line(output.style('bold', where));
  const width = Math.max(...checks.map(({ name }) => name.length));
  for (const { name, status, detail } of checks) {
    const mark = output.style(styles[status], status.padEnd(4));
    output.line(`  ${mark}  ${name.padEnd(width)}  ${detail}`);
  }
}
