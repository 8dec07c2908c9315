/** Control verbs for bursts: which layers the named functions have, and where they come from. */
import type { Readable } from 'node:stream';
import { messageOf } from '../base/errors.ts';
import type { FunctionImages, FunctionVersion } from '../function/record.ts';
import type { BurstFunction, BurstImage, BurstPins } from '../image/burst-pins.ts';
import type { Digest } from '../image/digest.ts';
import type { ImagePuller } from '../image/pull.ts';
import type { ControlHandlers } from './control.ts';

export interface BurstParts {
  bursts: Pick<BurstPins, 'pin' | 'release'>;
  images: { puller: Pick<ImagePuller, 'find'> };
  /** The topmost layer that all functions stand on; the host holds it as long as it runs. */
  baseLayer: Digest | undefined;
  registry: {
    /** From memory; throws `function.not_found`, `version.not_found`. */
    resolve: (name: string, versionOrAlias?: string) => FunctionVersion;
    getLayer: (digest: Digest, repository?: string) => Promise<Readable>;
  };
}

export function burstHandlers({
  bursts,
  images: { puller },
  baseLayer,
  registry,
}: BurstParts): Pick<ControlHandlers, 'burst.pin' | 'burst.release'> {
  return {
    'burst.pin': async ({ functions, forMs }) => {
      const known: BurstFunction[] = [];
      const unknown: { name: string; reason: string }[] = [];
      // Functions that stand on the same image ask for it once.
      const found = new Map<string, Promise<BurstImage>>();
      const find = (reference: string): Promise<BurstImage> => {
        const image = found.get(reference) ?? puller.find(reference);
        found.set(reference, image);
        return image;
      };
      for (const { name, version, calls } of functions) {
        try {
          const resolved = registry.resolve(name, version);
          const { layer, repository } = resolved;
          const { digest, diffId, sizeBytes } = layer;
          const open = () => registry.getLayer(digest, repository);
          const source = { digest, diffId, sizeBytes, parentChainId: baseLayer, open };
          const images = await Promise.all(namesOf(resolved.images).map(find));
          known.push({ name, calls, layers: [source], images });
        } catch (error) {
          unknown.push({ name, reason: messageOf(error) });
        }
      }
      const report = await bursts.pin(known, forMs);
      return { ...report, notReady: [...report.notReady, ...unknown] };
    },
    'burst.release': () => {
      bursts.release();
      return {};
    },
  };
}

function namesOf({ image, layers }: FunctionImages): string[] {
  return image === undefined ? layers : [image, ...layers];
}
