/** How many times as long as on a usual machine things may take here: `ops/vm` says so inside. */
export const slowness = Number(process.env['HATCH_TEST_SLOWNESS'] ?? 1);
