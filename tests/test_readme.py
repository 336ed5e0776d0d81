"The README's numbers and links"
from pathlib import Path
import json, re

root = Path(__file__).parents[1]

def test_the_numbers_of_the_readme_are_those_of_the_benchmark():
    text = (root/'README.md').read_text(encoding='utf-8')
    text = text.partition("## The main job's results")[2].partition('\n## ')[0]
    bench = json.loads((root/'benchmarks/results/fashion.json').read_text())
    r = bench['summary']
    plain,tta = re.search(r'mean ± sd of \d seeds \| (.*?) \| (.*?) \|', text).groups()
    ens = re.search(r'members ensembled \| (.*?) \| (.*?) \|', text).groups()
    for have,want in zip((plain, tta), ('test', 'test_tta')):
        assert [round(r[want][o], 4) for o in ('mean', 'sd')] == [float(o) for o in have.split(' ± ')]
    assert [round(r['ensemble'][o], 4) for o in ('test', 'test_tta')] == [float(o) for o in ens]
    said = r'(\d+) epochs each; ([\d,]+) parameters, ([\d.]+) MMACs.*?takes\s+(\d+) s'
    epochs,params,macs,secs = re.search(said, text, re.S).groups()
    assert (int(epochs), int(secs)) == (bench['settings']['epochs'], round(r['job_s']))
    assert (int(params.replace(',', '')), float(macs)) == (r['params'], round(r['macs']/1e6, 1))

def test_links_of_the_readme_exist():
    links = re.findall(r'\]\((?!\w+:)([^)#]+)', (root/'README.md').read_text(encoding='utf-8'))
    assert len(links) > 9 and [o for o in links if not (root/o).exists()] == []
