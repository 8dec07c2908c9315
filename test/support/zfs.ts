/**
 * Whether ZFS is there: in the VM of `npm run test:vm`, which has it for test files that import
 * this one. Elsewhere they test that it is refused.
 */
export const hasZfs = process.env['HATCH_TEST_ZFS'] !== undefined;
