import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { chainId, chainIds, digestOf, parseDigest } from '../../../host/image/digest.ts';
import { entryComponents } from '../../../host/image/layer-path.ts';
import { formatReference, parseReference } from '../../../host/image/reference.ts';

describe('digests', () => {
  test('of bytes are SHA-256 in hexadecimal', () => {
    assert.equal(
      digestOf('abc'),
      'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    );
  });

  test('that are malformed are refused', () => {
    const good = digestOf('x');
    assert.equal(parseDigest(good), good);
    for (const text of ['', 'sha256:', good.toUpperCase(), `${good}0`, 'md5:abc', `${good}/../x`])
      assert.throws(() => parseDigest(text), { code: 'image.invalid' }, text);
  });

  test('of chains depend on every layer and on their order', () => {
    const [a, b] = [digestOf('a'), digestOf('b')];
    assert.equal(chainId(undefined, a), a);
    assert.deepEqual(chainIds([a, b]), [a, digestOf(`${a} ${b}`)]);
    assert.notEqual(chainIds([a, b]).at(-1), chainIds([b, a]).at(-1));
    assert.deepEqual(chainIds([]), []);
  });
});

describe('references', () => {
  const digest = digestOf('x');
  const cases: [string, ReturnType<typeof parseReference>][] = [
    ['node24', ref({ repository: 'node24' })],
    ['node24:24.1', ref({ repository: 'node24', tag: '24.1' })],
    ['team/app', ref({ repository: 'team/app' })],
    ['example.org/app', ref({ registry: 'example.org', repository: 'app' })],
    ['localhost/app:x', ref({ registry: 'localhost', repository: 'app', tag: 'x' })],
    ['host:5000/a/b:1', ref({ registry: 'host:5000', repository: 'a/b', tag: '1' })],
    [`a__b-c.d:t@${digest}`, ref({ repository: 'a__b-c.d', tag: 't', digest })],
    [`app@${digest}`, ref({ repository: 'app', digest })],
  ];

  function ref(parts: Partial<ReturnType<typeof parseReference>> & { repository: string }) {
    return { registry: undefined, tag: undefined, digest: undefined, ...parts };
  }

  for (const [text, expected] of cases)
    test(`"${text}" is taken apart and put together`, () => {
      assert.deepEqual(parseReference(text), expected);
      assert.equal(formatReference(parseReference(text)), text);
    });

  test('that are malformed are refused', () => {
    const long = 'a'.repeat(513);
    for (const text of ['', 'UPPER', 'a//b', '/a', 'a/', 'a:', 'a:b:c', '../a', 'a@sha256:1', long])
      assert.throws(() => parseReference(text), { code: 'image.invalid' }, text);
    for (const text of ['-x.org/a', 'ex ample.org/a', `a@${digest}@${digest}`, 'a:-t', 'x.org:/a'])
      assert.throws(() => parseReference(text), { code: 'image.invalid' }, text);
  });
});

describe('paths of layer entries', () => {
  test('are relative to the root, whatever they begin with', () => {
    assert.deepEqual(entryComponents('./a//b/./c/'), ['a', 'b', 'c']);
    assert.deepEqual(entryComponents('/a'), ['a']);
    assert.deepEqual(entryComponents('./'), []);
    assert.deepEqual(entryComponents('..a/b..'), ['..a', 'b..']);
  });

  test('may not climb, even where it would lead nowhere', () => {
    for (const path of ['..', 'a/..', 'a/../b', '/..'])
      assert.throws(() => entryComponents(path), { code: 'image.invalid' }, path);
  });
});
