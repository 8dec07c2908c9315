/** Pulls and imports images as a host does, each time into a store of its own. */
import { rm } from 'node:fs/promises';
import { openImages, type Images } from '../../host/image/images.ts';
import { serve } from './worker.ts';

interface Target {
  /** For the store; gone afterwards. */
  root: string;
}

interface Pulled {
  ms: number;
  peakMB: number;
}

const handlers = {
  /**
   * From a registry on loopback, over plain HTTP. `peakMB` is the most memory that this process has
   * had so far.
   */
  async pull({ root, reference }: Target & { reference: string }): Promise<Pulled> {
    const ms = await timed(root, (images) => images.puller.pull(reference, { insecure: true }));
    return { ms, peakMB: process.resourceUsage().maxRSS / 1000 };
  },

  /** Milliseconds. */
  async importLayout({ root, directory }: Target & { directory: string }): Promise<number> {
    return await timed(root, (images) => images.store.importLayout({ directory }));
  },
};
export type PullHandlers = typeof handlers;

async function timed(root: string, work: (images: Images) => Promise<unknown>): Promise<number> {
  const registries = { credentialsFile: `${root}-none`, caFile: undefined };
  const images = await openImages({ store: { root }, registries, downloadsMax: 3 });
  try {
    const startMs = performance.now();
    await work(images);
    return performance.now() - startMs;
  } finally {
    await images.close();
    await rm(root, { recursive: true });
  }
}

serve(handlers, () => Promise.resolve());
