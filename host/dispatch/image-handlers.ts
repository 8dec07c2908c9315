/** What the control verbs of images do. */
import { HatchError } from '../base/errors.ts';
import { collectLayers } from '../image/collect.ts';
import type { Images } from '../image/images.ts';
import type { LayerStore } from '../image/layer-store.ts';
import { pushStored } from '../image/push.ts';
import { parseRemoteName } from '../image/registry/remote-name.ts';
import type { StoredImage, StoredLayer } from '../image/stored-image.ts';
import { verifyLayer } from '../image/verify.ts';
import type { ControlAnswer, ControlVerb } from './control-api.ts';
import type { ControlHandlers } from './control.ts';

export interface ImageParts {
  store: Pick<LayerStore, 'images' | 'image' | 'importLayout' | 'usage' | 'pin' | 'unpin'> &
    Pick<LayerStore, 'isPinned' | 'layers' | 'removeLayer' | 'removeImage' | 'settled'> &
    Pick<LayerStore, 'acquire' | 'treePathOf'>;
  puller: Pick<Images['puller'], 'find' | 'pull' | 'progress' | 'resolve'>;
  client: Images['client'];
}

type ImageVerb = Extract<ControlVerb, `image.${string}`>;

export function imageHandlers(
  parts: ImageParts,
  hostName: string,
): Pick<ControlHandlers, ImageVerb> {
  const { store, puller } = parts;
  const describe = (image: StoredImage) => ({
    reference: image.reference,
    digest: image.digest,
    layers: image.layers.length,
    sizeBytes: image.layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    isPinned: image.layers.every(({ chainId }) => store.isPinned(chainId)),
  });
  return {
    'image.ls': () => ({ images: store.images().map(describe), ...store.usage }),
    'image.import': async ({ directory, reference }) => {
      const named = reference === undefined ? {} : { reference };
      return { image: describe(await store.importLayout({ directory, ...named })) };
    },
    'image.pull': async ({ reference, insecure }) => ({
      image: describe(await puller.pull(reference, { insecure })),
    }),
    'image.progress': () => ({ pulls: puller.progress() }),
    'image.push': async ({ host, source, target, insecure }) => {
      // All hosts hear it: one that was not meant is not the first good answer.
      if (host !== hostName)
        throw new HatchError('request.invalid', `Cannot push: "${host}" is meant`);
      return pushStored(parts, { source, target, insecure });
    },
    'image.inspect': ({ reference }) => {
      const image = find(store, reference);
      const { directory, remote } = image.origin ?? {};
      const from = remote?.reference ?? directory;
      return {
        image: describe(image),
        config: image.config,
        layers: image.layers.map((layer) => ({
          digest: layer.digest,
          chainId: layer.chainId,
          sizeBytes: layer.sizeBytes,
          isPinned: store.isPinned(layer.chainId),
        })),
        ...(from === undefined ? {} : { from }),
      };
    },
    'image.verify': async ({ reference }) => {
      const layers = reference === undefined ? store.layers() : find(store, reference).layers;
      return { layers: await verifyAll(store, layers) };
    },
    'image.gc': ({ images }) => collectLayers(store, { images }),
    'image.rm': async ({ reference }) => {
      const image = find(store, reference);
      await store.removeImage(image.reference);
      return {};
    },
    'image.pin': async ({ reference }) => {
      const image = find(store, reference);
      for (const { chainId } of image.layers) await store.pin(chainId);
      return { image: describe(image) };
    },
    'image.unpin': async ({ reference }) => {
      const image = find(store, reference);
      for (const { chainId } of image.layers) await store.unpin(chainId);
      return { image: describe(image) };
    },
  };
}

/** By its name here, or as a registry would understand it. */
function find(store: ImageParts['store'], reference: string): StoredImage {
  const image = store.image(reference) ?? store.image(parseRemoteName(reference).reference);
  if (image !== undefined) return image;
  throw new HatchError(
    'image.not_found',
    `Cannot find image "${reference}": "hatch image ls" shows what there is`,
  );
}

/** One after the other: the disk is wanted by starts too. */
async function verifyAll(
  store: ImageParts['store'],
  layers: readonly StoredLayer[],
): Promise<ControlAnswer<'image.verify'>['layers']> {
  const verified: ControlAnswer<'image.verify'>['layers'] = [];
  for (const { chainId, digest } of layers) {
    try {
      verified.push({ chainId, digest, differences: await verifyLayer(store, chainId) });
    } catch (error) {
      if (!(error instanceof HatchError) || error.code !== 'image.not_found') throw error;
      verified.push({ chainId, digest, differences: [], unverified: error.message });
    }
  }
  return verified;
}
