from __future__ import annotations
from pathlib import Path
import csv, gzip, io
import numpy as np, torch
from common import main, train, write_csv
import networks
RACES=("African-American","Caucasian","Hispanic","Other")
def people(data):
    with gzip.open(data/"compas/compas-scores-two-years.csv.gz","rt",encoding="utf-8") as f:
        rows=[r for r in csv.DictReader(f) if r["days_b_screening_arrest"] and -30<=float(r["days_b_screening_arrest"])<=30 and r["is_recid"]!="-1" and r["c_charge_degree"]!="O" and r["score_text"]!="N/A"]
    header=["age","priors_count","juvenile_felonies","juvenile_misdemeanours","felony","male","days_to_screening","days_in_jail",*("race_"+r for r in RACES)]
    import datetime
    out=[]
    for r in rows:
        d=lambda t: datetime.datetime.fromisoformat(t)
        jail=(d(r["c_jail_out"])-d(r["c_jail_in"])).days if r["c_jail_in"] and r["c_jail_out"] else 0
        out.append([int(r["age"]),int(r["priors_count"]),int(r["juv_fel_count"]),int(r["juv_misd_count"]),int(r["c_charge_degree"]=="F"),int(r["sex"]=="Male"),abs(int(float(r["days_b_screening_arrest"]))),jail,*(int(r["race"]==k or (k=="Other" and r["race"] not in RACES)) for k in RACES)])
    return header, torch.tensor(out).float(), torch.tensor([int(r["two_year_recid"]) for r in rows]), torch.tensor([int(r["score_text"]!="Low") for r in rows])
def make(data,out):
    header,x,y,score=people(data)
    print(x.shape,x.mean(0),y.float().mean())
    z=(x-x.mean(0))/x.std(0)
    n=4800
    model=networks.offender()
    train(model,z[:n],score[:n],epochs=8,lr=3e-3)
    torch.save(model.state_dict(), out/"mlp.pt")
    print((model(z[n:]).argmax(1)==score[n:]).float().mean())
    write_csv(out/"people.csv",[*header,"score"],[[*(f"{v:.4f}" for v in r.tolist()),["low","high"][k]] for r,k in zip(z[n:n+300],score[n:].tolist())])
