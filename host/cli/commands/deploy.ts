import { createReadStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { formatBytes, formatDuration } from '../../telemetry/format.ts';
import { required } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';

/** Images take as long as registries do. */
const pullPatienceMs = 3_600_000;

export const deployCommand: Command = {
  name: 'deploy',
  usage: 'DIR',
  summary: 'Bundle the function in a folder and make it the latest version',
  examples: ['hatch deploy functions/hello'],
  options: { json: { type: 'boolean', value: '', help: 'print JSON' } },
  positionals: { min: 1, max: 1 },
  async run(context) {
    const outputDirectory = await mkdtemp(join(tmpdir(), 'hatch-deploy-'));
    try {
      await deployFolder(context, outputDirectory);
    } finally {
      await rm(outputDirectory, { recursive: true, force: true });
    }
  },
};

async function deployFolder(context: CommandContext, outputDirectory: string): Promise<void> {
  const { output, positionals } = context;
  const directory = resolve(required(positionals, 0));
  // Bundler and object store are large: no other command waits for them.
  const [{ readManifest }, { bundleFunction }, { LayerObjects }] = await Promise.all([
    import('../../function/manifest.ts'),
    import('../../function/bundle.ts'),
    import('../../function/layer-objects.ts'),
  ]);
  const manifest = await readManifest(directory);
  const bundle = await output.progress(
    `Bundling ${directory}`,
    bundleFunction({ directory, manifest, outputDirectory }),
  );
  for (const warning of bundle.warnings) output.note(`warning: ${warning}`);
  const { layer, layerFile, entryPath } = bundle;
  const layers = await LayerObjects.open(await context.connect());
  await output.progress(
    `Uploading ${formatBytes(layer.sizeBytes)}`,
    layers.put(layer, async () => createReadStream(layerFile)),
  );
  const client = await context.client();
  const hasImages = manifest.image !== undefined || manifest.layers.length > 0;
  const patience = { timeoutMs: pullPatienceMs };
  const done = await output.progress(
    `${hasImages ? 'Pulling images and starting' : 'Starting'} an instance of ${manifest.name}`,
    client.ask('deploy', { manifest, entryPath, layer }, hasImages ? patience : undefined),
  );
  const { startRecord, previousVersion } = done;
  if (output.json) return output.value(done);
  const startTime = formatDuration(startRecord.endNs - startRecord.startNs);
  const { image, layers: shared } = done.images;
  const before = previousVersion === undefined ? 'new' : `was version ${previousVersion}`;
  output.line(
    `${output.style('bold', `${done.name} version ${done.version}`)} (${before}): ` +
      `${formatBytes(done.layerBytes)}, ready in ${startTime} (${startRecord.path})`,
  );
  for (const name of image === undefined ? shared : [image, ...shared]) output.line(`  ${name}`);
}
