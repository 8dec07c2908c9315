import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { HatchError, messageOf } from '../../base/errors.ts';
import type { ControlReply } from '../../dispatch/control-api.ts';
import type { ControlClient } from '../../dispatch/control-client.ts';
import { required, UsageError } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { answersOf } from '../host-answers.ts';
import { time } from '../output.ts';

const json = { json: { type: 'boolean', value: '', help: 'print JSON' } } as const;

export const secretCommands: Command[] = [
  {
    name: 'secret set',
    usage: 'NAME [FILE]',
    summary: 'Set a secret to what is in a file, or on standard input; never an argument',
    examples: ['hatch secret set TLS_KEY key.pem', 'pass show db | hatch secret set DB_PASSWORD'],
    options: json,
    positionals: { min: 1, max: 2 },
    async run(context) {
      const { client, output, positionals } = context;
      const name = required(positionals, 0);
      const asker = await client();
      const { publicKey } = await keyOfAll(context, asker);
      const value = await readValue(name, positionals[1]);
      const { sealSecret, secretIdOf } = await import('../../function/secret-box.ts');
      const id = secretIdOf({ tenant: context.tenant ?? 'default', name });
      const box = sealSecret({ publicKey, name: id, value });
      value.fill(0);
      const done = await output.progress('Asking', asker.ask('secret.set', { name, box }));
      if (output.json) return output.value({ name, ...done });
      output.line(
        `${name} ${done.isNew ? 'is set' : 'has a new value: the next instances get it'}`,
      );
    },
  },
  {
    name: 'secret ls',
    usage: '',
    summary: 'List the secrets, without their values',
    examples: ['hatch secret ls'],
    options: json,
    positionals: { min: 0, max: 0 },
    async run({ client, output }) {
      const { secrets } = await output.progress('Asking', (await client()).ask('secret.ls', {}));
      if (output.json) return output.value(secrets);
      output.table(
        ['NAME', 'TENANT', 'SET', 'KEY', 'USED BY'],
        secrets.map(({ name, tenant, setAtMs, keyId, usedBy }) => {
          return [name, tenant, time(setAtMs), keyId, usedBy.join(', ')];
        }),
      );
    },
  },
  {
    name: 'secret rm',
    usage: 'NAME',
    summary: 'Remove a secret that no function uses',
    examples: ['hatch secret rm DB_PASSWORD'],
    options: {},
    positionals: { min: 1, max: 1 },
    async run({ client, output, positionals }) {
      const name = required(positionals, 0);
      await output.progress('Asking', (await client()).ask('secret.rm', { name }));
      output.line(`${name} is removed`);
    },
  },
  {
    name: 'secret rotate',
    usage: '',
    summary: "Encrypt all secrets anew, with the first key in the hosts' files of keys",
    examples: ['hatch secret rotate'],
    options: json,
    positionals: { min: 0, max: 0 },
    async run(context) {
      const { client, output } = context;
      const asker = await client();
      const { keyIds } = await keyOfAll(context, asker);
      const asked = asker.ask('secret.rotate', {});
      const { resealed } = await output.progress('Encrypting', asked);
      if (output.json) return output.value({ resealed, keyId: keyIds[0] });
      const many = `${resealed} ${resealed === 1 ? 'secret is' : 'secrets are'}`;
      output.line(`${many} now of key ${keyIds[0]}: older keys are not needed any more`);
    },
  },
];

/** A host that lacks the key could start no function that uses what is sealed with it. */
async function keyOfAll(
  { output }: CommandContext,
  asker: ControlClient,
): Promise<ControlReply<'secret.key'>> {
  const asked = asker.askAll('secret.key', {});
  const answers = answersOf(await output.progress('Asking', asked), output);
  const [first] = answers;
  if (first === undefined) throw new HatchError('host.nats_unavailable', 'No host has answered');
  const newest = first.reply.keyIds[0] ?? '';
  const other = answers.find(({ reply }) => reply.keyIds[0] !== newest);
  if (other === undefined) return first.reply;
  throw new HatchError(
    'host.config_invalid',
    `Cannot seal a secret for all hosts: the first key of "${first.host}" is ${newest}, that of ` +
      `"${other.host}" is ${other.reply.keyIds[0]}; give all the same file of keys`,
  );
}

async function readValue(name: string, file: string | undefined): Promise<Buffer> {
  if (file === undefined && process.stdin.isTTY) return Buffer.from(await askFor(name));
  try {
    return file === undefined || file === '-' ? await buffer(process.stdin) : await readFile(file);
  } catch (cause) {
    throw new UsageError(`the value cannot be read: ${messageOf(cause)}`, { cause });
  }
}

/** Shows nothing of what is typed. */
async function askFor(name: string): Promise<string> {
  process.stderr.write(`Value of ${name}: `);
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  try {
    return await lines.question('');
  } finally {
    lines.close();
    process.stderr.write('\n');
  }
}
