"""What a raster carries beside its pixels: all of it comes back, from the file alone."""
import math

import numpy as np
import pytest
from osgeo import gdal

from conftest import copy, crs, errors, failures, memory, no_sidecar, noise, picture, reopen

KINDS = [["LOSSLESS=YES"], ["QUALITY=60"]]


def full_source():
    ds = memory(picture(90, 70, 3))
    ds.SetSpatialRef(crs("EPSG:32633"))
    ds.SetGeoTransform((400000.25, 0.3, 0.01, 5800000.5, -0.02, -0.3))
    ds.SetMetadata({"AREA_OR_POINT": "Point", "Empty": "", "Text": "two\nlines = and an equals sign", "Ünï": "cödé"})
    ds.SetMetadata({"A": "1", "B": "2"}, "OWN_DOMAIN")
    ds.SetMetadata(["<x:xmpmeta>a &lt; b</x:xmpmeta>"], "xml:XMP")
    ds.SetMetadata({"LINE_OFF": "10", "SAMP_OFF": "20"}, "RPC")
    for i, name in enumerate(["red edge", "", "ünïcode"]):
        band = ds.GetRasterBand(i + 1)
        band.SetDescription(name)
        band.SetMetadata({"WAVELENGTH": str(600 + i)})
        band.SetMetadata({"K": "V%d" % i}, "BAND_DOMAIN")
        band.SetNoDataValue(7)
        band.SetScale(0.5 + i)
        band.SetOffset(-3.5)
        band.SetUnitType("W/m²")
    ds.GetRasterBand(2).SetCategoryNames(["", "one", "two words"])
    return ds


def metadata(thing):
    own = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "NSVQ"}
    domains = set(thing.GetMetadataDomainList() or []) - own
    found = {d: (thing.GetMetadata_List(d) if d.startswith("xml:") else thing.GetMetadata(d)) for d in domains}
    return {d: items for d, items in found.items() if items}


@pytest.mark.parametrize("options", KINDS)
def test_all_in_the_file(tmp_path, options):
    source = full_source()
    path = copy(tmp_path / "a.nsvq", source, *options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nsvq"]

    ds = reopen(path)
    assert ds.GetGeoTransform() == source.GetGeoTransform()
    assert ds.GetSpatialRef().IsSame(source.GetSpatialRef())
    assert ds.GetSpatialRef().GetAuthorityCode(None) == "32633"
    assert metadata(ds) == metadata(source)
    assert len(metadata(ds)) == 4
    for i in range(1, 4):
        got, want = ds.GetRasterBand(i), source.GetRasterBand(i)
        assert got.GetDescription() == want.GetDescription()
        assert got.GetColorInterpretation() == want.GetColorInterpretation()
        assert got.GetNoDataValue() == 7
        assert (got.GetScale(), got.GetOffset(), got.GetUnitType()) == (i - 0.5, -3.5, "W/m²")
        assert got.GetCategoryNames() == want.GetCategoryNames()
        assert metadata(got) == metadata(want)
        assert got.GetMaskFlags() == gdal.GMF_NODATA


def test_nothing_where_there_was_nothing(tmp_path):
    ds = reopen(copy(tmp_path / "a.nsvq", memory(picture(20, 20))))
    assert ds.GetSpatialRef() is None and ds.GetGCPCount() == 0 and metadata(ds) == {}
    assert ds.GetGeoTransform(can_return_null=True) is None
    band = ds.GetRasterBand(1)
    assert band.GetNoDataValue() is None and band.GetScale() is None and band.GetOffset() is None
    assert band.GetUnitType() == "" and band.GetCategoryNames() is None and metadata(band) == {}
    assert band.GetMaskFlags() == gdal.GMF_ALL_VALID
    assert [p.name for p in tmp_path.iterdir()] == ["a.nsvq"]


CRS = {
    "projected": crs("EPSG:32633"),
    "geographic, latitude first": crs("EPSG:4326", [1, 2]),
    "geographic, longitude first": crs("EPSG:4326", [2, 1]),
    "compound": crs("EPSG:7405"),
    "3D": crs("EPSG:4979", [2, 1, 3]),
    "epoch": crs("EPSG:9000", None, 2021.3),
    "bound": crs("+proj=tmerc +lon_0=12 +ellps=bessel +towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7"),
    "engineering": crs('LOCAL_CS["site",UNIT["metre",1]]'),
    "south up": crs("EPSG:2049"),
}


@pytest.mark.parametrize("name", CRS)
def test_crs(tmp_path, name):
    srs = CRS[name]
    source = memory(noise(10, 10))
    source.SetSpatialRef(srs)
    path = copy(tmp_path / "a.nsvq", source, "LOSSLESS=YES")
    got = reopen(path).GetSpatialRef()  # a copy
    assert got.IsSame(srs, ["IGNORE_DATA_AXIS_TO_SRS_AXIS_MAPPING=NO"])
    assert got.GetDataAxisToSRSAxisMapping() == srs.GetDataAxisToSRSAxisMapping()
    assert got.GetCoordinateEpoch() == srs.GetCoordinateEpoch()
    wkt2 = srs.ExportToWkt(["FORMAT=WKT2_2019"])
    assert got.ExportToWkt(["FORMAT=WKT2_2019"]) == crs(wkt2).ExportToWkt(["FORMAT=WKT2_2019"])
    assert no_sidecar(path)


def gcps(text="info"):
    return [gdal.GCP(100.125 * i, 200 - i, 5.5 * i, 0.1 + i, 0.2 * i, text + str(i), "id %d" % i) for i in range(5)]


def read_gcps(ds):
    return [(g.Id, g.Info, g.GCPX, g.GCPY, g.GCPZ, g.GCPPixel, g.GCPLine) for g in ds.GetGCPs()]


@pytest.mark.parametrize("name", ["projected", "geographic, latitude first", "epoch"])
def test_gcps(tmp_path, name):
    source = memory(noise(10, 10))
    source.SetGCPs(gcps(), CRS[name])
    path = copy(tmp_path / "a.nsvq", source, "LOSSLESS=YES")
    ds = reopen(path)
    assert read_gcps(ds) == read_gcps(source) and ds.GetGCPCount() == 5
    assert ds.GetGCPSpatialRef().IsSame(CRS[name])
    assert ds.GetGCPSpatialRef().GetDataAxisToSRSAxisMapping() == CRS[name].GetDataAxisToSRSAxisMapping()
    assert ds.GetGCPSpatialRef().GetCoordinateEpoch() == CRS[name].GetCoordinateEpoch()
    assert ds.GetSpatialRef() is None
    assert no_sidecar(path)


def test_gcps_with_odd_texts(tmp_path):
    source = memory(noise(10, 10))
    source.SetGCPs(gcps("a\ttab and a\nline "), CRS["projected"])
    path = copy(tmp_path / "a.nsvq", source, "LOSSLESS=YES")
    ds = reopen(path)
    assert read_gcps(ds) == read_gcps(source) and no_sidecar(path)
    assert ds.GetGCPSpatialRef().IsSame(CRS["projected"])


@pytest.mark.parametrize("value", [0, 255, 12, -9999, 256, 0.5, math.nan, -math.inf, 1e300])
@pytest.mark.parametrize("options", KINDS)
def test_nodata_value(tmp_path, value, options):
    source = memory(picture(40, 40))
    for i in range(1, 4):
        source.GetRasterBand(i).SetNoDataValue(value)
    path = copy(tmp_path / "a.nsvq", source, *options)
    ds = reopen(path)
    got = [ds.GetRasterBand(i).GetNoDataValue() for i in range(1, 4)]
    assert all(g == value or (math.isnan(g) and math.isnan(value)) for g in got)
    assert no_sidecar(path)


def test_nodata_differs_by_band(tmp_path):
    source = memory(picture(40, 40, 4))
    for i, value in enumerate([0, None, 255, 3]):
        if value is not None:
            source.GetRasterBand(i + 1).SetNoDataValue(value)
    ds = reopen(copy(tmp_path / "a.nsvq", source))
    assert [ds.GetRasterBand(i).GetNoDataValue() for i in range(1, 5)] == [0, None, 255, 3]


@pytest.mark.parametrize("options,kept", zip(KINDS, [True, False]))
def test_statistics_of_the_source_hold_for_exact_bands_only(tmp_path, options, kept):
    source = memory(picture(40, 40))
    band = source.GetRasterBand(2)
    band.SetMetadata({"STATISTICS_MEAN": "120.5", "STATISTICS_MAXIMUM": "255", "OTHER": "x"})
    ds = reopen(copy(tmp_path / "a.nsvq", source, *options))
    got = ds.GetRasterBand(2).GetMetadata()
    assert got.pop("OTHER") == "x"
    assert got == ({"STATISTICS_MEAN": "120.5", "STATISTICS_MAXIMUM": "255"} if kept else {})


def test_palette_is_exact_and_kept(tmp_path):
    pixels = noise(70, 60)
    source = memory(pixels)
    table = gdal.ColorTable()
    for i in range(256):
        table.SetColorEntry(i, (i, 255 - i, i // 2, 255 if i else 0))
    band = source.GetRasterBand(1)
    band.SetColorTable(table)
    band.SetColorInterpretation(gdal.GCI_PaletteIndex)
    ds = reopen(copy(tmp_path / "a.nsvq", source, "QUALITY=1"))
    got = ds.GetRasterBand(1)
    assert np.array_equal(ds.ReadAsArray(), pixels[0])
    assert got.GetColorInterpretation() == gdal.GCI_PaletteIndex
    assert [got.GetColorTable().GetColorEntry(i) for i in range(256)] == [table.GetColorEntry(i) for i in range(256)]
    assert ds.GetMetadataItem("COMPRESSION_REVERSIBILITY", "IMAGE_STRUCTURE") == "LOSSLESS"


def test_classes_are_exact(tmp_path):
    pixels = noise(70, 60) % 5
    source = memory(pixels)
    source.GetRasterBand(1).SetCategoryNames(["sea", "land", "", "ice"])
    ds = reopen(copy(tmp_path / "a.nsvq", source, "QUALITY=1"))
    assert np.array_equal(ds.ReadAsArray(), pixels[0])
    assert ds.GetRasterBand(1).GetCategoryNames() == ["sea", "land", "", "ice"]


def test_bits_are_exact(tmp_path):
    path = str(tmp_path / "bits.tif")
    pixels = noise(70, 60) % 2
    gdal.GetDriverByName("GTiff").CreateCopy(path, memory(pixels), 0, ["NBITS=1"])
    assert np.array_equal(reopen(copy(tmp_path / "a.nsvq", gdal.Open(path))).ReadAsArray(), pixels[0])


def test_attribute_table_is_kept(tmp_path):
    source = memory(picture(40, 40))
    table = gdal.RasterAttributeTable()
    table.CreateColumn("class", gdal.GFT_String, gdal.GFU_Name)
    table.SetRowCount(2)
    table.SetValueAsString(1, 0, "wood")
    source.GetRasterBand(1).SetDefaultRAT(table)
    ds = reopen(copy(tmp_path / "a.nsvq", source))
    got = ds.GetRasterBand(1).GetDefaultRAT()
    assert got.GetRowCount() == 2 and got.GetValueAsString(1, 0) == "wood"


def test_domains_about_other_files_are_left_out(tmp_path):
    source = memory(noise(20, 20))
    source.SetMetadata({"SUBDATASET_1_NAME": "other.nc:a"}, "SUBDATASETS")
    source.SetMetadata({"OVERVIEW_FILE": "other.ovr"}, "OVERVIEWS")
    source.SetMetadata({"COMPRESSION": "LZW", "NBITS": "8"}, "IMAGE_STRUCTURE")
    source.SetMetadata({"QUALITY": "3"}, "NSVQ")
    ds = reopen(copy(tmp_path / "a.nsvq", source, "LOSSLESS=YES"))
    assert metadata(ds) == {} and ds.GetSubDatasets() == [] and ds.GetMetadata("NSVQ") == {}
    assert "NBITS" not in ds.GetMetadata("IMAGE_STRUCTURE")


def test_translate_of_a_window(tmp_path):
    """gdal_translate hands over a VRT."""
    source = full_source()
    ds = gdal.Translate(str(tmp_path / "a.nsvq"), source, format="NSVQ", srcWin=[10, 20, 30, 40])
    assert ds is not None
    ds = None
    ds = reopen(tmp_path / "a.nsvq")
    assert (ds.RasterXSize, ds.RasterYSize) == (30, 40)
    assert set(metadata(ds)) <= {"", "OWN_DOMAIN", "xml:XMP", "RPC"}
    assert set(metadata(ds.GetRasterBand(1))) <= {"", "BAND_DOMAIN"}
    assert ds.GetRasterBand(1).GetScale() == 0.5 and ds.GetRasterBand(1).GetNoDataValue() == 7
    assert np.array_equal(ds.GetRasterBand(1).ReadAsArray() == 7, source.ReadAsArray(10, 20, 30, 40)[0] == 7)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nsvq"]


def test_later_edits_go_to_pam_and_win(tmp_path):
    path = copy(tmp_path / "a.nsvq", full_source())
    ds = reopen(path)
    ds.SetMetadataItem("Text", "edited")
    ds.SetGeoTransform((1, 2, 0, 3, 0, -2))
    ds.SetSpatialRef(CRS["compound"])
    ds.GetRasterBand(1).SetNoDataValue(99)
    ds.GetRasterBand(1).SetScale(5)
    ds.GetRasterBand(1).SetUnitType("m")
    ds.GetRasterBand(2).ComputeStatistics(False)
    ds = None
    ds = reopen(path)
    assert ds.GetMetadataItem("Text") == "edited" and ds.GetMetadataItem("A", "OWN_DOMAIN") == "1"
    assert ds.GetGeoTransform() == (1, 2, 0, 3, 0, -2)
    assert ds.GetSpatialRef().IsSame(CRS["compound"])
    band = ds.GetRasterBand(1)
    assert (band.GetNoDataValue(), band.GetScale(), band.GetOffset(), band.GetUnitType()) == (99, 5, -3.5, "m")
    assert ds.GetRasterBand(2).GetMetadataItem("STATISTICS_MEAN") is not None
    assert ds.GetRasterBand(2).GetNoDataValue() == 7


def test_what_the_file_holds_cannot_be_taken_away(tmp_path):
    source = full_source()
    source.GetRasterBand(3).SetColorTable(gdal.ColorTable())
    source.GetRasterBand(2).SetDefaultRAT(gdal.RasterAttributeTable())
    path = copy(tmp_path / "a.nsvq", source)
    ds = reopen(path)
    band = ds.GetRasterBand(2)
    for edit in [lambda: band.DeleteNoDataValue(), lambda: band.SetUnitType(""), lambda: band.SetCategoryNames([]),
                 lambda: band.SetColorInterpretation(gdal.GCI_Undefined), lambda: ds.SetSpatialRef(None),
                 lambda: ds.GetRasterBand(3).SetColorTable(None)]:
        with errors() as found:
            assert edit() != 0
        assert failures(found) == [gdal.CPLE_NotSupported]
    band = ds = None
    assert no_sidecar(path)


def test_scale_and_offset_beside_other_edits(tmp_path):
    """An .aux.xml about something else says 1 and 0, and means nothing by it."""
    source = gdal.GetDriverByName("MEM").Create("", 50, 40, 1, gdal.GDT_UInt16)
    source.GetRasterBand(1).SetScale(0.1)
    source.GetRasterBand(1).SetOffset(220)
    path = copy(tmp_path / "a.nsvq", source)
    ds = reopen(path)
    ds.GetRasterBand(1).ComputeStatistics(False)
    ds = None
    assert not no_sidecar(path)
    ds = reopen(path)
    assert (ds.GetRasterBand(1).GetScale(), ds.GetRasterBand(1).GetOffset()) == (0.1, 220)
    assert ds.GetRasterBand(1).SetScale(1) == 0
    ds = None
    ds = reopen(path)
    assert (ds.GetRasterBand(1).GetScale(), ds.GetRasterBand(1).GetOffset()) == (1, 220)
    with errors() as found:
        assert ds.GetRasterBand(1).SetOffset(0) != 0
    assert failures(found) == [gdal.CPLE_NotSupported]


@pytest.mark.parametrize("kind,value", [(gdal.GDT_Byte, 3.5), (gdal.GDT_Int16, -0.5), (gdal.GDT_UInt16, 3.5)])
def test_nodata_that_no_sample_is(tmp_path, kind, value):
    """GDAL's masks may round it, so samples stay exact whatever is asked for."""
    source = gdal.GetDriverByName("MEM").Create("", 50, 40, 1, kind)
    source.GetRasterBand(1).WriteArray(noise(50, 40)[0] % 8)
    source.GetRasterBand(1).SetNoDataValue(value)
    ds = reopen(copy(tmp_path / "a.nsvq", source, "QUALITY=20"))
    assert ds.GetRasterBand(1).GetNoDataValue() == value
    assert np.array_equal(ds.ReadAsArray(), source.ReadAsArray())


def test_grey_masks_are_told_of(tmp_path):
    source = memory(picture(60, 50))
    source.CreateMaskBand(gdal.GMF_PER_DATASET)
    grey = noise(60, 50)[0]
    source.GetRasterBand(1).GetMaskBand().WriteArray(grey)
    with errors() as found:
        path = copy(tmp_path / "a.nsvq", source)
    assert [cls for cls, _, _ in found] == [gdal.CE_Warning]
    ds = reopen(path)
    assert np.array_equal(ds.GetRasterBand(1).GetMaskBand().ReadAsArray(), (grey > 0) * 255)


@pytest.mark.parametrize("name", ["ESRI:102001", "EPSG:32633"])
def test_crs_keeps_the_codes_of_its_parts(tmp_path, name):
    source = memory(picture(20, 20))
    source.SetSpatialRef(crs(name))
    assert reopen(copy(tmp_path / "a.nsvq", source)).GetProjection() == source.GetProjection()


def test_masks_and_read_only_files(tmp_path):
    path = copy(tmp_path / "a.nsvq", memory(picture(40, 30)))
    ds = reopen(path)
    assert ds.CreateMaskBand(gdal.GMF_PER_DATASET) == 0  # beside the file
    ds.GetRasterBand(1).GetMaskBand().WriteArray(noise(40, 30)[0] // 128 * 255)
    ds = None
    ds = reopen(path)
    assert ds.GetRasterBand(2).GetMaskFlags() == gdal.GMF_PER_DATASET
    assert np.array_equal(ds.GetRasterBand(2).GetMaskBand().ReadAsArray(), noise(40, 30)[0] // 128 * 255)
    inside = copy(tmp_path / "b.nsvq", ds)
    ds = reopen(inside)
    with errors() as found:
        assert ds.CreateMaskBand(gdal.GMF_PER_DATASET) != 0 and ds.GetRasterBand(1).CreateMaskBand(0) != 0
    assert failures(found) == [gdal.CPLE_NotSupported] * 2 and no_sidecar(inside)


def test_structure(tmp_path):
    source = memory(picture(40, 40, 4), alpha=True)
    ds = reopen(copy(tmp_path / "a.nsvq", source, "QUALITY=37"))
    assert ds.GetMetadata("IMAGE_STRUCTURE") == {"COMPRESSION_REVERSIBILITY": "LOSSY", "INTERLEAVE": "PIXEL"}
    assert ds.GetMetadataItem("COMPRESSION", "IMAGE_STRUCTURE") == "NSVQ"
    own = ds.GetMetadata("NSVQ")
    assert own["QUALITY"] == "37" and own["MODEL"] and len(own["MODEL_ID"]) == 16
    assert own["MODEL_EMBEDDED"] == "NO"
    codings = [ds.GetRasterBand(i).GetMetadataItem("CODING", "NSVQ") for i in range(1, 5)]
    assert codings == ["LOSSY3", "LOSSY3", "LOSSY3", "EXACT"]
    assert [ds.GetRasterBand(i).GetBlockSize() for i in range(1, 5)] == [[512, 512]] * 4

    ds = reopen(copy(tmp_path / "b.nsvq", source, "LOSSLESS=YES"))
    assert ds.GetMetadataItem("COMPRESSION_REVERSIBILITY", "IMAGE_STRUCTURE") == "LOSSLESS"
    assert ds.GetMetadata("NSVQ") == {}


def test_copy_of_a_copy_keeps_the_right_description(tmp_path):
    """The NSVQ domain of the source describes the source file."""
    first = reopen(copy(tmp_path / "a.nsvq", memory(picture(40, 40)), "QUALITY=37"))
    second = reopen(copy(tmp_path / "b.nsvq", first, "LOSSLESS=YES"))
    assert second.GetMetadata("NSVQ") == {}
    assert np.array_equal(second.ReadAsArray(), first.ReadAsArray())


def test_driver_description():
    driver = gdal.GetDriverByName("NSVQ")
    items = driver.GetMetadata()
    assert items["DMD_EXTENSION"] == items["DMD_EXTENSIONS"] == "nsvq"
    types = set(items["DMD_CREATIONDATATYPES"].split()) - {"Int8"}
    assert types == {gdal.GetDataTypeName(t) for t in range(1, 14) if gdal.GetDataTypeName(t)}
    assert items["DMD_MIMETYPE"] == "image/x-nsvq"
    for capability in ["DCAP_OPEN", "DCAP_CREATECOPY", "DCAP_CREATE", "DCAP_VIRTUALIO", "DCAP_RASTER", "DCAP_COORDINATE_EPOCH"]:
        assert items[capability] == "YES"
    from xml.etree import ElementTree
    names = {o.get("name") for o in ElementTree.fromstring(items["DMD_CREATIONOPTIONLIST"])}
    assert names == {"QUALITY", "MODEL", "EMBED_MODEL", "LOSSLESS", "NUM_THREADS", "OVERVIEWS", "OVERVIEW_QUALITY",
                     "OVERVIEW_RESAMPLING",
                     "FAMILY", "RATE", "PSNR", "EFFORT"}
    assert [o.get("name") for o in ElementTree.fromstring(items["DMD_OPENOPTIONLIST"])] == ["NUM_THREADS", "ON_ERROR"]


def test_bad_crs_in_the_source_does_not_stop_the_copy(tmp_path):
    """A CRS that PROJ cannot name is still written, and read without a failure."""
    source = memory(noise(10, 10))
    source.SetSpatialRef(crs('PROJCS["odd",GEOGCS["odd",DATUM["odd",SPHEROID["odd",6378000,300]],'
                             'PRIMEM["x",1.5],UNIT["degree",0.0174532925199433]],'
                             'PROJECTION["Not_A_Projection"],UNIT["metre",1]]'))
    with errors() as found:
        ds = reopen(copy(tmp_path / "a.nsvq", source, "LOSSLESS=YES"))
        assert ds.GetSpatialRef() is not None and ds.GetSpatialRef().GetName() == "odd"
    assert failures(found) == []
