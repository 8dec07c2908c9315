/** Made-up pulls of other kinds than a trace, against fitting a policy to it. */
import { digestOf } from '../../host/image/digest.ts';
import type { Pull } from './layer-trace.ts';
import { randomFrom } from './random.ts';

const pullsEach = 6000;
const popularMax = 2000;
/** That of web objects and layers alike. */
const zipfExponent = 0.9;
const pullIntervalMs = 1000;

/** Layers by popularity, which keeps still; moves on; or is broken by runs pulled only once. */
export const kinds: Record<string, (seed: number) => Pull[]> = {
  zipf: (seed) => makePulls(seed, (rank) => rank),
  shifting: (seed) =>
    makePulls(seed, (rank, at) => (rank + 300 * Math.floor(at / 1000)) % popularMax),
  scans: (seed) => makePulls(seed, (rank, at) => (at % 1000 < 700 ? rank : popularMax + at)),
};

function makePulls(seed: number, layerOf: (rank: number, at: number) => number): Pull[] {
  const random = randomFrom(seed);
  const sums: number[] = [];
  for (let rank = 0; rank < popularMax; rank++)
    sums.push((sums.at(-1) ?? 0) + (rank + 1) ** -zipfExponent);
  const sizes = Array.from({ length: popularMax + pullsEach }, () => layerBytes(random));
  return Array.from({ length: pullsEach }, (_, at) => {
    const drawn = random() * (sums.at(-1) ?? 0);
    const layer = layerOf(
      sums.findIndex((sum) => sum >= drawn),
      at,
    );
    const sizeBytes = sizes[layer] ?? 1;
    return { timeMs: at * pullIntervalMs, digest: digestOf(`layer ${layer}`), sizeBytes };
  });
}

/** Log-normal: half below 100 kB, a tenth above 3.6 MB; at most 2 GB. */
function layerBytes(random: () => number): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return Math.ceil(Math.min(1e5 * Math.exp(2.8 * normal), 2e9));
}
