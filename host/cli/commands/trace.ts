import { renderTrace } from '../../telemetry/waterfall.ts';
import { required } from '../command.ts';
import type { Command } from '../command.ts';

export const traceCommand: Command = {
  name: 'trace',
  usage: 'REQUEST_ID',
  summary: 'Show where the time of a call went, and what it copied up',
  examples: ['hatch trace 3kTm9dQfLwX0aBcDeFgHiJ', 'hatch trace 3kTm9dQfLwX0aBcDeFgHiJ --json'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 1, max: 1 },
  async run({ client, output, positionals }) {
    const requestId = required(positionals, 0);
    const asked = (await client()).askAny('trace', { requestId });
    const { host, reply } = await output.progress('Asking', asked);
    if (output.json) return output.value({ host, ...reply.record });
    const { columns, colors } = output;
    output.bytes(Buffer.from(renderTrace(reply.record, { columns, colors })));
  },
};
