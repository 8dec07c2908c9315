import { resolve } from 'node:path';
import type { AllVerb, ControlReply, ControlRequest } from '../../dispatch/control-api.ts';
import type { ControlClient, HostAnswer } from '../../dispatch/control-client.ts';
import { HatchError } from '../../base/errors.ts';
import { pushLayout } from '../../image/push.ts';
import { dockerConfigFile } from '../../image/registry/credentials.ts';
import { RegistryClient } from '../../image/registry/registry-client.ts';
import { formatBytes } from '../../telemetry/format.ts';
import { flag, required, text } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { answersOf } from '../host-answers.ts';
import { pinBurst, unpinBurst } from './image-burst.ts';
import type { Output } from '../output.ts';

/** A large image over a slow line. */
const patienceMs = 3_600_000;
const progressEveryMs = 1000;
const insecure = {
  insecure: { type: 'boolean', value: '', help: 'over plain HTTP, without TLS' },
} as const;
const json = { json: { type: 'boolean', value: '', help: 'print JSON' } } as const;

type Image = ControlReply<'image.import'>['image'];

export const imageCommands: Command[] = [
  {
    name: 'image ls',
    usage: '',
    summary: 'List the images on each host',
    examples: ['hatch image ls'],
    options: json,
    positionals: { min: 0, max: 0 },
    async run({ client, output }) {
      const asked = (await client()).askAll('image.ls', {});
      const hosts = answersOf(await output.progress('Asking', asked), output);
      if (output.json) return output.value(hosts.map(({ host, reply }) => ({ host, ...reply })));
      printImages(
        output,
        hosts.flatMap(({ host, reply }) => reply.images.map((image) => ({ host, image }))),
      );
      for (const { host, reply } of hosts) {
        const { usedBytes, capacityBytes, heldBytes } = reply;
        const [used, capacity, held] = [usedBytes, capacityBytes, heldBytes].map(formatBytes);
        output.note(`${host}: ${used} of ${capacity}, ${held} of them held`);
      }
    },
  },
  {
    name: 'image import',
    usage: 'DIR',
    summary: 'Import an OCI image layout, from a directory on each host',
    examples: ['hatch image import /srv/images/node24 --reference node24'],
    options: {
      reference: { type: 'string', value: 'NAME', help: 'what to call it' },
      ...json,
    },
    positionals: { min: 1, max: 1 },
    async run(context) {
      const directory = resolve(required(context.positionals, 0));
      const reference = text(context.values, 'reference');
      const named = reference === undefined ? {} : { reference };
      await change(context, 'image.import', { directory, ...named });
    },
  },
  {
    name: 'image pull',
    usage: 'REFERENCE',
    summary: 'Fetch an image from its registry to each host',
    examples: ['hatch image pull debian:12', 'hatch image pull example.org:5000/team/app@sha256:…'],
    options: { ...insecure, ...json },
    positionals: { min: 1, max: 1 },
    async run(context) {
      const reference = required(context.positionals, 0);
      await pull(context, { reference, insecure: flag(context.values, 'insecure') });
    },
  },
  {
    name: 'image push',
    usage: 'IMAGE [TARGET]',
    summary: 'Copy an image of a host, or of an OCI layout here, to a registry',
    examples: [
      'hatch image push node24 example.org/base/node24:1',
      'hatch image push --layout ./image example.org/team/app:1.2',
    ],
    options: {
      layout: { type: 'string', value: 'DIR', help: 'push from this layout; no host is asked' },
      ...insecure,
      ...json,
    },
    positionals: { min: 1, max: 2 },
    run: push,
  },
  {
    name: 'image inspect',
    usage: 'REFERENCE',
    summary: 'Show the configuration and layers of an image',
    examples: ['hatch image inspect node24', 'hatch image inspect node24 --json'],
    options: json,
    positionals: { min: 1, max: 1 },
    async run({ client, output, positionals }) {
      const reference = required(positionals, 0);
      const { reply } = await (await client()).askAny('image.inspect', { reference });
      if (output.json) output.value(reply);
      else printDetails(output, reply);
    },
  },
  {
    name: 'image verify',
    usage: '[REFERENCE]',
    summary: 'Read all files of stored layers, and name those that have changed',
    examples: ['hatch image verify', 'hatch image verify debian:12 --json'],
    options: json,
    positionals: { min: 0, max: 1 },
    run: verify,
  },
  {
    name: 'image gc',
    usage: '',
    summary: 'Delete layers that no image has and nothing uses',
    examples: ['hatch image gc', 'hatch image gc --images'],
    options: {
      images: { type: 'boolean', value: '', help: 'and images that are not pinned or in use' },
      ...json,
    },
    positionals: { min: 0, max: 0 },
    async run({ client, output, values }) {
      const asked = askEach(await client(), 'image.gc', { images: flag(values, 'images') });
      const hosts = answersOf(await output.progress('Deleting', asked), output);
      if (output.json) return output.value(hosts.map(({ host, reply }) => ({ host, ...reply })));
      output.table(
        ['HOST', 'LAYERS', 'FREED'],
        hosts.map(({ host, reply }) => [host, reply.layers, formatBytes(reply.freedBytes)]),
      );
    },
  },
  {
    name: 'image rm',
    usage: 'REFERENCE',
    summary: 'Forget an image, and delete the layers that only it has',
    examples: ['hatch image rm debian:12'],
    options: {},
    positionals: { min: 1, max: 1 },
    async run({ client, output, positionals }) {
      const reference = required(positionals, 0);
      answersOf(await askEach(await client(), 'image.rm', { reference }), output);
      output.line(`Removed ${reference}`);
    },
  },
  {
    name: 'image pin',
    usage: 'REFERENCE | --burst FILE',
    summary: 'Keep the layers of an image, or of functions soon to be called, on disk',
    examples: ['hatch image pin node24', 'hatch image pin --burst sale.json'],
    options: {
      burst: {
        type: 'string',
        value: 'FILE',
        help: '{"minutes": 30, "functions": [{"name": "resize", "calls": 500}]}',
      },
      ...json,
    },
    positionals: { min: 0, max: 1 },
    async run(context) {
      const burst = text(context.values, 'burst');
      if (burst !== undefined) return await pinBurst(context, burst);
      await change(context, 'image.pin', { reference: required(context.positionals, 0) });
    },
  },
  {
    name: 'image unpin',
    usage: 'REFERENCE | --burst',
    summary: 'Let the layers of an image, or of the burst, be evicted again',
    examples: ['hatch image unpin node24', 'hatch image unpin --burst'],
    options: { burst: { type: 'boolean', value: '', help: 'those of the burst' }, ...json },
    positionals: { min: 0, max: 1 },
    async run(context) {
      if (flag(context.values, 'burst')) return await unpinBurst(context);
      await change(context, 'image.unpin', { reference: required(context.positionals, 0) });
    },
  },
];

async function change<V extends Extract<AllVerb, 'image.import' | 'image.pin' | 'image.unpin'>>(
  { client, output }: CommandContext,
  verb: V,
  request: ControlRequest<V>,
): Promise<void> {
  const asked = askEach(await client(), verb, request);
  const hosts = answersOf(await output.progress('Waiting for the hosts', asked), output);
  const images = hosts.map(({ host, reply }) => ({ host, image: reply.image }));
  if (output.json) output.value(images);
  else printImages(output, images);
}

/** Hosts take their time, and each its own: so they are counted first. */
async function askEach<V extends AllVerb>(
  client: ControlClient,
  verb: V,
  request: ControlRequest<V>,
): Promise<HostAnswer<V>[]> {
  const hosts = (await client.askAll('image.progress', {})).length;
  return client.askAll(verb, request, { timeoutMs: patienceMs, hosts });
}

async function pull(
  { client: connect, output }: CommandContext,
  request: ControlRequest<'image.pull'>,
): Promise<void> {
  const client = await connect();
  const shown = setInterval(() => void showProgress(client, output), progressEveryMs);
  try {
    const hosts = answersOf(await askEach(client, 'image.pull', request), output);
    const images = hosts.map(({ host, reply }) => ({ host, image: reply.image }));
    if (output.json) output.value(images);
    else printImages(output, images);
  } finally {
    clearInterval(shown);
  }
}

async function showProgress(client: ControlClient, output: Output): Promise<void> {
  // A host that is too busy to say how far it is goes on all the same.
  const answers = await client.askAll('image.progress', {}).catch(() => []);
  for (const answer of answers) {
    if (!('reply' in answer)) continue;
    for (const { reference, downloadedBytes, totalBytes } of answer.reply.pulls) {
      const [done, all] = [downloadedBytes, totalBytes].map(formatBytes);
      output.note(`${answer.host}: ${reference}: ${done} of ${all} downloaded`);
    }
  }
}

async function push(context: CommandContext): Promise<void> {
  const { output, positionals, values, environment } = context;
  const directory = text(values, 'layout');
  const isInsecure = flag(values, 'insecure');
  const source = required(positionals, 0);
  const work =
    directory === undefined
      ? pushFromHost(context, { source, target: positionals[1] ?? source, insecure: isInsecure })
      : pushFromHere(environment, {
          directory: resolve(directory),
          insecure: isInsecure,
          positionals,
        });
  const pushed = await output.progress('Pushing', work);
  if (output.json) output.value(pushed);
  else output.line(`${pushed.reference} ${pushed.digest} (${formatBytes(pushed.sentBytes)} sent)`);
}

async function pushFromHost(
  { client: connect }: CommandContext,
  request: Omit<ControlRequest<'image.push'>, 'host'>,
): Promise<ControlReply<'image.push'>> {
  const client = await connect();
  const { host } = await client.askAny('image.inspect', { reference: request.source });
  const patience = { timeoutMs: patienceMs, quietMs: patienceMs };
  const { reply } = await client.askAny('image.push', { host, ...request }, patience);
  return reply;
}

/** With the credentials and the rights of who runs the command. */
async function pushFromHere(
  environment: NodeJS.ProcessEnv,
  options: { directory: string; insecure: boolean; positionals: string[] },
): Promise<ControlReply<'image.push'>> {
  const { directory, insecure: isInsecure, positionals } = options;
  using client = new RegistryClient({ credentialsFile: dockerConfigFile(environment) });
  const [name, target = name] = positionals;
  return pushLayout(client, {
    directory,
    target: target ?? '',
    insecure: isInsecure,
    ...(positionals.length === 2 && name !== undefined ? { name } : {}),
  });
}

async function verify({ client, output, positionals }: CommandContext): Promise<void> {
  const [reference] = positionals;
  const request = reference === undefined ? {} : { reference };
  const asked = askEach(await client(), 'image.verify', request);
  const hosts = answersOf(await output.progress('Reading the layers', asked), output);
  const layers = hosts.flatMap(({ host, reply }) =>
    reply.layers.map((layer) => ({ host, ...layer })),
  );
  if (output.json) output.value(layers);
  for (const { host, digest, differences, unverified } of layers) {
    if (unverified !== undefined) output.note(`warning: ${host}: ${unverified}`);
    for (const { path, problem } of output.json ? [] : differences)
      output.line(`${host} ${digest.slice(0, 19)} ${problem} /${path}`);
  }
  const damaged = layers.filter(({ differences }) => differences.length > 0).length;
  if (damaged > 0)
    throw new HatchError(
      'image.invalid',
      `${damaged} of ${layers.length} layers are not as they were unpacked: remove their images ` +
        'with "hatch image rm", then pull them again',
    );
  if (!output.json) output.line(`${layers.length} layers are as they were unpacked`);
}

function printDetails(output: Output, details: ControlReply<'image.inspect'>): void {
  const { image, config, layers, from } = details;
  const facts = {
    Reference: image.reference,
    Digest: image.digest,
    From: from ?? '',
    Platform: `${config.os}/${config.architecture}`,
    User: config.user,
    Entrypoint: config.entrypoint.join(' '),
    Command: config.command.join(' '),
    Directory: config.workingDirectory,
    Variables: Object.keys(config.env).join(' '),
  };
  for (const [name, value] of Object.entries(facts))
    if (value !== '') output.line(`${`${name}:`.padEnd(12)}${value}`);
  output.table(
    ['LAYER', 'SIZE', 'PINNED'],
    layers.map(({ digest, sizeBytes, isPinned }) => [
      digest.slice(0, 19),
      formatBytes(sizeBytes),
      isPinned ? 'yes' : '',
    ]),
  );
}

function printImages(
  output: CommandContext['output'],
  images: { host: string; image: Image }[],
): void {
  output.table(
    ['HOST', 'REFERENCE', 'DIGEST', 'LAYERS', 'SIZE', 'PINNED'],
    images.map(({ host, image }) => [
      host,
      image.reference,
      image.digest.slice(0, 19),
      image.layers,
      formatBytes(image.sizeBytes),
      image.isPinned ? 'yes' : '',
    ]),
  );
}
