/** Whatever `function.json` holds: it is a manifest, or refused with the paths of its mistakes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import { manifestJsonSchema, parseManifest } from '../../../host/function/manifest.ts';

const runs = { numRuns: 1000, interruptAfterTimeLimit: 4000 };
const fields = Object.keys(manifestJsonSchema()['properties'] as Record<string, unknown>);

function parsesOrRefuses(value: unknown): void {
  try {
    const manifest = parseManifest(value);
    assert.deepEqual(parseManifest(structuredClone(manifest)), manifest);
  } catch (error) {
    assert.ok(error instanceof HatchError, String(error));
    assert.equal(error.code, 'deploy.invalid');
    assert.ok(Array.isArray(error.details['problems']));
  }
}

test('any JSON', () => {
  fc.assert(fc.property(fc.jsonValue(), parsesOrRefuses), runs);
});

test('a manifest with any JSON in some of its fields', () => {
  const field = fc.constantFrom(...fields, '__proto__', 'constructor', 'toString');
  const numbers = fc.oneof(fc.integer(), fc.double(), fc.constantFrom(0, -1, 1e308, 2 ** 53));
  const value = fc.oneof(fc.jsonValue(), numbers, fc.string(), fc.array(fc.string()));
  const changes = fc.array(fc.tuple(field, value), { maxLength: 4 });
  fc.assert(
    fc.property(changes, (some) => {
      const text = JSON.stringify({ name: 'a', entry: 'a.ts' }).slice(0, -1);
      const added = some.map(([key, one]) => `,${JSON.stringify(key)}:${JSON.stringify(one)}`);
      parsesOrRefuses(JSON.parse(`${text}${added.join('')}}`));
    }),
    runs,
  );
});
