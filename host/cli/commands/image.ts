import { resolve } from 'node:path';
import type { AllVerb, ControlReply, ControlRequest } from '../../dispatch/control-api.ts';
import { flag, required, text } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { answersOf } from '../host-answers.ts';
import { pinBurst, unpinBurst } from './image-burst.ts';
import { size } from '../output.ts';

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
        const held = `${size(reply.heldBytes)} of them held`;
        output.note(`${host}: ${size(reply.usedBytes)} of ${size(reply.capacityBytes)}, ${held}`);
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
  // Unpacking an image takes a while, and each host its own.
  const patience = { timeoutMs: 300_000, quietMs: verb === 'image.import' ? 2000 : 150 };
  const asked = (await client()).askAll(verb, request, patience);
  const hosts = answersOf(await output.progress('Waiting for the hosts', asked), output);
  const images = hosts.map(({ host, reply }) => ({ host, image: reply.image }));
  if (output.json) output.value(images);
  else printImages(output, images);
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
      size(image.sizeBytes),
      image.isPinned ? 'yes' : '',
    ]),
  );
}
